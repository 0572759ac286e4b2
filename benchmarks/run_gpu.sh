#!/usr/bin/env bash
# What a GPU can show within eight minutes, from a plain checkout and whatever wheels are there.
#
#   benchmarks/run_gpu.sh [--out DIR] [--bundles DIR] [--minutes N] [--task NAMES]
#
# Leaves one folder (out/gpu unless given) with a JSON file a network, a page, and what was skipped and why; prints a
# short table last. Without a GPU it does the same with what is left. Exit code 1 where nothing was measured, 2 where a
# package is missing, before any time is spent.
#
# On a GPU the first network is a U-Net with 32 features at 512 x 512 that has learnt nothing, since it is the one that
# others can be held against, in fp32 and fp16 in turns; then every network in fp16 beside its peers; then, as far as the
# time goes, each in fp32, and last the U-Net beside torch.compile, which compiles for most of a minute for each batch.
# Batches are 32, 1 and 8, in that order. Where TensorRT works int8 is measured too, of bundles that have it
# (--bundles): its ranges need real slices, and its search takes minutes.
#
# In a copy without .git no report can say which commit ran, unless CORONANET_SOURCE=$(git rev-parse HEAD) comes along.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/out/gpu bundles='' minutes=8 tasks='classification,binary_segmentation,multiclass_segmentation,lung_segmentation'

usage() {
	sed -n '4p' "${BASH_SOURCE[0]}" | sed 's/^# *//' >&2
	exit 2
}

while (($#)); do
	(($# >= 2)) || usage
	case $1 in
	--out) out=$2 ;;
	--bundles) bundles=$2 ;;
	--minutes) minutes=$2 ;;
	--task) tasks=$2 ;;
	*) usage ;;
	esac
	shift 2
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || usage
IFS=, read -ra tasks <<< "$tasks"

mkdir -p "$out"
out=$(cd "$out" && pwd)
skipped=$out/skipped.txt
: > "$skipped"
# Of every minute nine seconds are kept for what is made of the measurements: the page, the A/A run and the tables.
reserve=$((9 * minutes))
end=$((SECONDS + 60 * minutes - reserve))

skip() {
	printf '%s: %s\n' "$1" "$2" | tee -a "$skipped" >&2
}

# The checkout is the package, under whatever name it was cloned; it need not be installed.
path=$(mktemp -d)
trap 'rm -rf "$path"' EXIT
ln -s "$root" "$path/coronanet"
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
# The first GPU is the same one to CUDA, which runs the networks, and to NVML, which tells its power.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
python=$root/.venv/bin/python
[[ -x $python ]] || python=$(command -v python3) || {
	echo 'no python3 found: install Python 3.11 or newer' >&2
	exit 2
}
run=("$python" -P -m coronanet)
source=${CORONANET_SOURCE-}
if [[ -n $source && ! $source =~ ^[0-9a-f]{40}[+?]?$ ]]; then
	echo "CORONANET_SOURCE: expected the 40 hex digits of a commit, got $source" >&2
	exit 2
fi
[[ -n $source || -e $root/.git ]] || skip source 'no .git here: set CORONANET_SOURCE for reports that say which commit ran'

# step NAME SHARE COMMAND…: runs it for at most SHARE percent of all the time and never past the end; its last complaint
# is the reason where it fails.
step() {
	local name=$1 limit=$((60 * minutes * $2 / 100)) left=$((end - SECONDS))
	shift 2
	((limit < left)) || limit=$left
	if ((limit < 5)); then
		skip "$name" "no time is left of $minutes min"
		return 124
	fi
	printf '%s (at most %s s)\n' "$name" "$limit" >&2
	local code=0
	timeout --kill-after=5 "$limit" "$@" 2> "$out/$name.log" || code=$?
	case $code in
	0) rm -f "$out/$name.log" ;;
	124 | 137) skip "$name" "not done within $limit s" ;;
	*) skip "$name" "$(grep -v '^warning: ' "$out/$name.log" | tail -n 1 | cut -c 1-300)" ;;
	esac
	return "$code"
}

# export_as NAME DIR SOURCE OPTION…: a bundle of one network. Code 3 where it failed and there was time.
export_as() {
	local code=0
	step "$1" 50 "${run[@]}" export "$3" "${@:4}" --max-batch 32 --out "$2" > /dev/null || code=$?
	case $code in
	0 | 124 | 137) return 0 ;;
	*) return 3 ;;
	esac
}

# export_to DIR SOURCE: with plans and fp16. A file that a gate refuses leaves no bundle at all, so again without.
export_to() {
	local name
	name=export-$(basename "$2")
	export_as "$name" "$@" --fp16 "${plans[@]}" && return
	if ((${#plans[@]})); then
		export_as "$name-no-plans" "$@" --fp16 && return
	fi
	export_as "$name-fp32" "$@" || true
}

# rank DIR: how every way to run a bundle decides and how fast it is on this machine, which an export finds out itself.
rank() {
	step "rank-$(basename "$1")" 20 "$python" -P -c '
import sys
from pathlib import Path
from coronanet.engines.bundle import Bundle
from coronanet.engines.ranking import choose
bundle = Bundle.open(Path(sys.argv[1]))
choose({bundle.card.task: bundle})
' "$1" || true
}

# take DIR: a bundle that was given, whose plans have not run on this GPU.
take() {
	[[ -f $1/manifest.json ]] || return 0
	((!${#plans[@]})) || step "verify-$(basename "$1")" 10 "${run[@]}" verify "$1" > /dev/null || true
	rank "$1"
}

# measure NAME SHARE DIR TASK OPTION…: one network, into NAME.json, which has what was measured before time ran out.
measure() {
	local name=$1 share=$2 folder=$3 task=$4
	shift 4
	rm -f "$out/$name.json"
	# Else the verb would export what ships under that name, and measure another network than this one.
	[[ -f $folder/$task/manifest.json ]] || {
		skip "$name" "no bundle in $folder/$task"
		return 1
	}
	step "$name" "$share" "${run[@]}" bench engines --bundles "$folder" --task "$task" --out "$out/$name.json" "$@" > "$out/$name.txt" || true
	[[ -s $out/$name.json ]] || return 1
	measured+=("$out/$name.json")
	last=(--bundles "$folder" --task "$task")
}

gpu=no
if command -v nvidia-smi > /dev/null && timeout 20 nvidia-smi > /dev/null 2>&1; then
	gpu=yes
	timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory \
		--format=csv > "$out/gpu.csv" || skip gpu.csv 'nvidia-smi does not answer what the GPU is'
else
	skip gpu 'nvidia-smi finds no GPU here: only the CPU is measured'
fi

# Every package that is missing, before anything is spent. Every network is built through MONAI's families too.
needed=(numpy pydantic platformdirs typer rich jinja2 safetensors cv2 nibabel)
if [[ $gpu = yes || -z $bundles ]]; then
	needed+=(torch monai onnx onnxscript onnxruntime.transformers.float16 onnxruntime.quantization)
fi
"$python" -P -c '
import importlib, re, sys
from importlib.metadata import version
missing = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        if name == "typer" and [int(part) for part in re.findall(r"\d+", version(name))][:2] < [0, 29]:
            raise ImportError(f"expected 0.29 or newer, got {version(name)}")
    except Exception as error:
        missing.append(f"  {name}: {error}")
sys.exit("\n".join(["missing:", *missing]) if missing else 0)
' "${needed[@]}" || {
	echo "nothing was run: install them for $python, as README.md says" >&2
	exit 2
}

step doctor 15 "${run[@]}" doctor --json > "$out/doctor.json" || rm -f "$out/doctor.json"
plans=()
# TensorRT may be here and not run on this GPU: its trial says so.
if "$python" -c '
import json, sys
trials = json.load(open(sys.argv[1]))["trials"]
sys.exit(not any(each["backend"].startswith("tensorrt") and each["verdict"] == "works" for each in trials))
' "$out/doctor.json" 2> /dev/null; then
	plans=(--tensorrt)
elif [[ $gpu = yes ]]; then
	skip tensorrt 'it is not here, or does not run on this GPU: see doctor.json'
fi

if [[ $gpu = yes ]]; then
	[[ -f $out/unet32/card.json ]] || step untrained 10 "${run[@]}" bench untrained "$out/unet32" > /dev/null || true
	# All at once: nothing is timed yet but how they rank, and their exports are one core's work each.
	export_to "$out/unet32-bundles" "$out/unet32" &
fi
others=fp32
if [[ -z $bundles ]]; then
	((!${#plans[@]})) || skip int8 'ranges need real slices and their search takes minutes: pass --bundles of export --int8'
	bundles=$out/bundles
	for task in "${tasks[@]}"; do
		export_to "$bundles" "$task" &
	done
else
	((!${#plans[@]})) || others=fp32,int8
	for task in "${tasks[@]}"; do
		take "$bundles/$task" &
	done
fi
wait

measured=() last=()
same=(--backend onnxruntime --precision fp32)
if [[ $gpu = yes ]]; then
	same=(--backend torch_cuda --precision fp16)
	options=(--backend 'torch_cuda,onnxruntime_cuda,tensorrt' --batch '32,1,8' --max-seconds 3 --no-fresh)
	peers=(--peer 'torch cuda' --peer 'torch cuda fp16' --peer 'torch cuda fp16 graph' --peer 'onnxruntime cuda fp16')
	unet32=("$out/unet32-bundles" binary_segmentation "${options[@]}")
	measure unet32 45 "${unet32[@]}" --precision fp32,fp16 "${peers[@]}" --peer 'onnxruntime cuda' || true
	for task in "${tasks[@]}"; do
		measure "$task" 15 "$bundles" "$task" "${options[@]}" --precision fp16 "${peers[@]}" || true
	done
	for task in "${tasks[@]}"; do
		measure "$task-${others/,/-}" 10 "$bundles" "$task" "${options[@]}" --precision "$others" --no-roofline || true
	done
	measure unet32-compile 50 "${unet32[@]}" --precision fp16 --peer 'torch.compile cuda fp16' --no-roofline || true
	skip serving "a GPU is served by NVIDIA's container, see docs/tensorrt.md; coronanet demo measures the CPU's server"
else
	for task in "${tasks[@]}"; do
		measure "$task" 60 "$bundles" "$task" --batch 1,2 --max-seconds "$((minutes > 4 ? 10 : minutes))" --peers || true
	done
fi

end=$((end + reserve))
if ((${#measured[@]})); then
	step page 10 "${run[@]}" bench report "${measured[@]}" --out "$out/report.html" > /dev/null || true
	# The last of them twice again, in one way: what this machine calls a difference where there is none.
	rm -f "$out/again-a.json" "$out/again-b.json" "$out/compare.json" "$out/compare.txt"
	for side in a b; do
		step "again-$side" 10 "${run[@]}" bench engines "${last[@]}" "${same[@]}" --no-fresh --no-roofline \
			--repeats 50 --max-seconds "$minutes" --out "$out/again-$side.json" > /dev/null || break
	done
	if [[ -f $out/again-b.json ]]; then
		step compare 5 "${run[@]}" bench compare "$out/again-a.json" "$out/again-b.json" --out "$out/compare.json" > "$out/compare.txt" || true
	fi
fi

echo
for file in "${measured[@]}"; do
	step "table-$(basename "$file" .json)" 10 "${run[@]}" bench table "$file" || true
done
[[ ! -f $out/compare.txt ]] || cat "$out/compare.txt"
if [[ -s $skipped ]]; then
	echo
	echo 'skipped:'
	sed 's/^/  /' "$skipped"
fi
echo "written: $out"
((${#measured[@]}))
