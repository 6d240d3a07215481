"""Trains the CIFAR-10 residual networks that are shipped in this folder.

The networks are those of He et al. 2015, "Deep Residual Learning for Image
Recognition", section 4.2: depth 6n+2, stages of 16, 32 and 64 channels,
parameter-free shortcuts ("option A"). Everything runs on the CPU.

The shipped models were made with exactly these commands, DIR being the folder
of the data and SCRATCH a folder for the decoded images and the checkpoint:

    python models/train_cifar10.py --data DIR --scratch SCRATCH \\
        --architecture resnet20 --epochs 50 --seed 1 --threads 1 --compile \\
        --out models/resnet20-cifar10
    python models/train_cifar10.py --data DIR --scratch SCRATCH \\
        --architecture resnet56 --epochs 30 --seed 1 --threads 1 --compile \\
        --out models/resnet56-cifar10

DIR holds either train.tar and test.tar or the folders train/ and test/; both
are laid out as SPLIT/CLASS/NNNN.jpg, and the alphabetical order of the classes
is the order of the labels. The test split is read only after the last epoch.

Needs torch, numpy, pillow and safetensors.
"""

import argparse
import io
import math
import os
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
PUBLISHED = {"resnet20": 91.25, "resnet32": 92.49, "resnet44": 92.83, "resnet56": 93.03}  # top-1
BORDER = 4


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.extra:  # every second pixel, zero channels after the existing ones
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, blocks, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self.stage(16, 16, blocks, 1)
        self.layer2 = self.stage(16, 32, blocks, 2)
        self.layer3 = self.stage(32, 64, blocks, 2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def stage(inputs, outputs, blocks, stride):
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def jpegs(data, split):
    """Yields (path inside the split, bytes) of every image of a split."""
    folder, tar = data / split, data / (split + ".tar")
    if folder.is_dir():
        for path in sorted(folder.glob("*/*.jpg")):
            yield f"{split}/{path.parent.name}/{path.name}", path.read_bytes()
    else:
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    yield member.name, archive.extractfile(member).read()


def load(data, split, scratch):
    """The split as (uint8 images N x 32 x 32 x 3, labels, class names)."""
    cache = scratch / f"cifar10-{split}.npz"
    if not cache.exists():
        items = sorted(jpegs(data, split))
        names = sorted({path.split("/")[-2] for path, _ in items})
        labels = np.array([names.index(path.split("/")[-2]) for path, _ in items])
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for _, b in items])
        np.savez(cache, pixels=pixels, labels=labels, names=names)
    stored = np.load(cache)
    return torch.from_numpy(stored["pixels"]), torch.from_numpy(stored["labels"]), list(stored["names"])


def normalise(pixels):
    """uint8 N x H x W x 3 to normalised f32 N x 3 x H x W (channels last in memory)."""
    mean, std = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


def augmented(padded, chosen):
    """Random 32 x 32 crops of the padded images, half of them mirrored."""
    n, steps = len(chosen), torch.arange(32)
    top, left = torch.randint(2 * BORDER + 1, (2, n, 1))
    rows, columns = top + steps, left + steps
    columns = torch.where(torch.rand(n, 1) < 0.5, columns, columns.flip(1))
    return normalise(padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]])


@torch.no_grad()
def accuracy(model, pixels, labels):
    """(top-1, top-5) in percent, in f32."""
    model.eval()
    hits = torch.zeros(2)
    for start in range(0, len(labels), 500):
        best = model(normalise(pixels[start : start + 500])).topk(5).indices
        right = best == labels[start : start + 500, None]
        hits += torch.stack([right[:, 0].sum(), right.sum()])
    model.train()
    return [round(100 * hit / len(labels), 2) for hit in hits.tolist()]


def export(model, args, epochs, train_set):
    """Writes the model folder; the figures are those of the weights read back from it."""
    args.out.mkdir(parents=True, exist_ok=True)
    kept = {k: v.float().contiguous() for k, v in model.state_dict().items() if "num_batches" not in k}
    save_file(kept, args.out / "weights.safetensors")
    fresh = ResNet(BLOCKS[args.architecture])
    missing, unexpected = fresh.load_state_dict(load_file(args.out / "weights.safetensors"), strict=False)
    assert not unexpected and all("num_batches" in name for name in missing)
    pixels, labels, names = train_set
    train_top1, _ = accuracy(fresh, pixels, labels)
    test_pixels, test_labels, test_names = load(args.data, "test", args.scratch)
    assert names == test_names
    top1, top5 = accuracy(fresh, test_pixels, test_labels)
    (args.out / "labels.txt").write_text("".join(name + "\n" for name in names))
    data = (
        "CIFAR-10 (Krizhevsky 2009), 50000 training and 10000 test images of 32 x 32 pixels, stored as "
        "JPEG of quality 75 with 4:2:0 chroma. That compression costs about three points of accuracy; "
        f"He et al. 2015 publish {PUBLISHED[args.architecture]} % for this network on the raw pixels."
    )
    recipe = (
        f"{command(args)} -- that is SGD with Nesterov momentum 0.9, batch {args.batch}, a learning rate "
        f"that rises linearly to {args.rate} over the first {args.warmup:.0%} of the steps and then falls "
        f"to 0 along a cosine, weight decay {args.decay}, label smoothing {args.smoothing}, random crops "
        f"from a reflected border of {BORDER} pixels, horizontal flips, {args.precision} autocast on the "
        "CPU; the weights are those of the last epoch, and no choice was made on the test images."
    )
    if epochs < args.epochs:
        recipe += f" Stopped early, after {epochs} of {args.epochs} epochs."
    (args.out / "model.toml").write_text(f'''architecture = "{args.architecture}"
weights = "weights.safetensors"
labels = "labels.txt"
version = "1"

[preprocess]
resize = 32
crop = 32
interpolation = "bilinear"
mean = {list(MEAN)}
std = {list(STD)}

[provenance]
data = "{data}"
recipe = "{recipe}"
epochs = {epochs}
seed = {args.seed}
train_top1 = {train_top1}
test_top1 = {top1}
test_top5 = {top5}
''')
    print(f"{args.architecture} after {epochs} epochs: train {train_top1} %, test {top1} %, top-5 {top5} %")


def command(args):
    return (
        f"python models/train_cifar10.py --data DIR --scratch SCRATCH --architecture {args.architecture} "
        f"--epochs {args.epochs} --seed {args.seed} --threads {args.threads}{' --compile' * args.compile} "
        f"--out models/{args.architecture}-cifar10"
    )


def train(model, args, train_set):
    pixels, labels, _ = train_set
    padded = F.pad(pixels.permute(0, 3, 1, 2).float(), [BORDER] * 4, mode="reflect")
    padded = padded.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    steps = len(labels) // args.batch  # per epoch; a last, smaller batch is left out
    total = args.epochs * steps
    optimizer = torch.optim.SGD(
        model.parameters(), args.rate, momentum=0.9, nesterov=True, weight_decay=args.decay
    )

    def rate(step):
        rise = args.warmup * total
        if step < rise:
            return (step + 1) / rise
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (total - rise))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    saved, first = args.scratch / f"{args.architecture}-{args.seed}.pt", 0
    if args.resume and saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        first = state["epoch"]
        print(f"resumed after epoch {first}", flush=True)
    forward = torch.compile(model) if args.compile else model
    for epoch in range(first, args.epochs if not args.export_only else 0):
        start, losses, hits = time.time(), 0.0, 0
        order = torch.randperm(len(labels))
        for step in range(steps):
            chosen = order[step * args.batch : (step + 1) * args.batch]
            images, target = augmented(padded, chosen), labels[chosen]
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                scores = forward(images)
            loss = F.cross_entropy(scores.float(), target, label_smoothing=args.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += loss.item()
            hits += (scores.argmax(1) == target).sum().item()
            if args.steps and step + 1 == args.steps:
                sys.exit(f"{args.steps} steps in {time.time() - start:.1f} s")
        seen = steps * args.batch
        print(
            f"epoch {epoch + 1:3}/{args.epochs}  {time.time() - start:6.1f} s  "
            f"loss {losses / steps:.4f}  train {100 * hits / seen:.2f} %",
            flush=True,
        )
        if (epoch + 1) % 3 == 0 or epoch + 1 == args.epochs:
            state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), epoch=epoch + 1)
            state |= dict(schedule=schedule.state_dict(), random=torch.get_rng_state())
            torch.save(state, saved.with_suffix(".new"))
            os.replace(saved.with_suffix(".new"), saved)
        first = epoch + 1
    return first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train and test, or their .tar")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for decoded images and checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--architecture", choices=BLOCKS, default="resnet20")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--warmup", type=float, default=0.15, help="share of the steps")
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps, to measure speed")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --scratch")
    parser.add_argument("--export-only", action="store_true", help="with --resume: only write the model folder")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.scratch.mkdir(parents=True, exist_ok=True)
    train_set = load(args.data, "train", args.scratch)
    model = ResNet(BLOCKS[args.architecture]).to(memory_format=torch.channels_last)
    epochs = train(model, args, train_set)
    export(model, args, epochs, train_set)


if __name__ == "__main__":
    main()
