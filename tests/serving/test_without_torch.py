"""What serves needs no torch: a hospital's machine has the bundles and nothing of training."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice, LocalEnsemble
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TaskName

PROGRAM = """
import sys
for name in ("torch", "monai", "lightning", "onnx", "onnxscript"):
    sys.modules[name] = None  # importing it fails, and looking for it finds nothing
from pathlib import Path
import numpy as np
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import LocalEnsemble
from coronanet.engines.ranking import rank
from coronanet.engines.slices import COUNTS, gate_slices
from coronanet.model.phantom import make_phantom
from coronanet.serving.repository import fill_repository
import coronanet.serving.predict_run, coronanet.serving.server

COUNTS["lung_segmentation"] = (0, 12, 0)
bundle = Bundle.open(Path(sys.argv[1]))
ranking = rank(bundle, gate_slices(None, bundle.card.task))
assert ranking.ways[0].evidence.reference == "onnxruntime fp32", ranking
bundles = {bundle.card.task: bundle}
choices = {bundle.card.task: ranking.best}
fill_repository(bundles, Path(sys.argv[2]), choices)
with LocalEnsemble(bundles, choices) as ensemble:
    mask = ensemble.infer({"image": make_phantom().image[:2]})["lung_mask"]
np.save(sys.argv[3], mask)
print(ranking.best.backend, ranking.best.precision)
"""


def test_a_bundle_is_ranked_put_into_a_repository_and_run_where_torch_is_not_installed(
    bundles: dict[TaskName, Bundle], tmp_path: Path
) -> None:
    arguments = [str(bundles["lung_segmentation"].path), f"{tmp_path}/repository", f"{tmp_path}/mask.npy"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    with LocalEnsemble(
        {"lung_segmentation": bundles["lung_segmentation"]}, {"lung_segmentation": Choice("onnxruntime", "fp32")}
    ) as ensemble:
        wanted = ensemble.infer({"image": make_phantom().image[:2]})["lung_mask"]
    assert np.mean(np.load(f"{tmp_path}/mask.npy") != wanted) <= bundles["lung_segmentation"].card.tolerance
