#!/usr/bin/env bash
# Everything that a GPU can show, within eight minutes, from a plain checkout and whatever wheels are there.
#
#   benchmarks/run_gpu.sh [--out DIR] [--bundles DIR] [--minutes N] [--task NAMES]
#
# Leaves one folder (out/gpu unless given) with JSON, a page where this version makes one, and what was skipped and why;
# prints a short table last. Without a GPU it does the same with what is left. Exit code 1 where nothing was measured.
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

mkdir -p "$out"
out=$(cd "$out" && pwd)
skipped=$out/skipped.txt
: > "$skipped"
end=$((SECONDS + 60 * minutes))

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

coronanet() {
	"$python" -P -m coronanet "$@"
}

# step NAME SHARE COMMAND…: runs it for at most SHARE percent of all the time and never past the end; its last complaint
# is the reason where it fails.
step() {
	local name=$1 limit=$((60 * minutes * $2 / 100)) left=$((end - SECONDS))
	shift 2
	((limit < left)) || limit=$left
	if ((limit < 5)); then
		skip "$name" "no time is left of $minutes min"
		return 1
	fi
	printf '%s (at most %s s)\n' "$name" "$limit" >&2
	local code=0
	timeout --kill-after=5 "$limit" "$@" 2> "$out/$name.log" || code=$?
	case $code in
	0) rm -f "$out/$name.log" ;;
	124 | 137) skip "$name" "not done within $limit s" ;;
	*) skip "$name" "$(grep -v '^warning: ' "$out/$name.log" | tail -n 1)" ;;
	esac
	return "$code"
}

run=("$python" -P -m coronanet)
gpu=no
if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null 2>&1; then
	gpu=yes
	nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory --format=csv > "$out/gpu.csv"
else
	skip gpu 'nvidia-smi finds no GPU here: only the CPU is measured'
fi

step doctor 15 "${run[@]}" doctor --json > "$out/doctor.json" || rm -f "$out/doctor.json"

if [[ -z $bundles ]]; then
	bundles=$out/bundles
	plans=()
	[[ $gpu = yes ]] && plans=(--tensorrt)
	# Files that a gate refuses are left out of a bundle, which is exit code 1 and no reason to stop.
	step export 40 "${run[@]}" export --fp16 "${plans[@]}" --out "$bundles" > /dev/null || true
elif [[ $gpu = yes ]]; then
	for bundle in "$bundles"/*/; do
		step "verify-$(basename "$bundle")" 10 "${run[@]}" verify "$bundle" > /dev/null || true
	done
fi

options=(--bundles "$bundles" --task "$tasks" --max-seconds $((minutes > 4 ? 10 : minutes)))
# A CPU has its batches in `bench engines --batch up`; here it is only what a GPU is held against.
batches=$([[ $gpu = yes ]] && echo up || echo 1,2)
if step engines 60 "${run[@]}" bench engines "${options[@]}" --batch "$batches" --peers --out "$out/engines.json" > "$out/engines.txt"; then
	# The same again, short: what this machine calls a difference where there is none.
	for side in a b; do
		step "again-$side" 10 "${run[@]}" bench engines "${options[@]}" --no-fresh --no-roofline --repeats 50 \
			--out "$out/again-$side.json" > /dev/null || break
	done
	if [[ -f $out/again-b.json ]]; then
		step compare 5 "${run[@]}" bench compare "$out/again-a.json" "$out/again-b.json" --out "$out/compare.json" \
			> "$out/compare.txt" || true
	fi
fi

if [[ $gpu = yes ]]; then
	skip serving "a GPU is served by NVIDIA's container, see docs/tensorrt.md; coronanet demo measures the CPU's server"
fi
if coronanet bench report --help > /dev/null 2>&1; then
	if [[ -f $out/engines.json ]]; then
		step page 10 "${run[@]}" bench report "$out/engines.json" --out "$out/report.html" > /dev/null || true
	fi
else
	skip page 'this version has no coronanet bench report'
fi

echo
if [[ -f $out/engines.json ]]; then
	coronanet bench table "$out/engines.json"
	if [[ -f $out/compare.txt ]]; then
		echo
		cat "$out/compare.txt"
	fi
fi
if [[ -s $skipped ]]; then
	echo
	echo 'skipped:'
	sed 's/^/  /' "$skipped"
fi
echo "written: $out"
[[ -f $out/engines.json ]]
