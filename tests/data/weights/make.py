"""Makes the weight files of this folder: one small net saved in every form that is read or refused.

Run here: python make.py. Needs torch, numpy and safetensors. Every value is a small multiple of 1/8, exact in all
types, so that each file holds the same numbers.
"""

import os

import torch
from safetensors.torch import save_file

SHAPES = {
    "conv1.weight": (4, 3, 3, 3),
    "bn1.weight": (4,),
    "bn1.bias": (4,),
    "bn1.running_mean": (4,),
    "bn1.running_var": (4,),
    "fc.weight": (5, 4),
    "fc.bias": (5,),
}


def value(name, shape):
    """Element i of a tensor is ((7 i + length of the name) mod 61 - 30) / 8."""
    count = torch.Size(shape).numel()
    return (((7 * torch.arange(count) + len(name)) % 61 - 30) / 8).reshape(shape)


tensors = {name: value(name, shape) for name, shape in SHAPES.items()}
state = dict(tensors)
state["bn1.num_batches_tracked"] = torch.tensor(17)
module = torch.nn.Module()
module.conv1 = torch.nn.Conv2d(3, 4, 3, bias=False)
module.bn1 = torch.nn.BatchNorm2d(4)
module.fc = torch.nn.Linear(4, 5)
module.load_state_dict(state)
ordered = module.state_dict()  # an OrderedDict with _metadata

torch.save(ordered, "plain.pth")
optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
checkpoint = {"epoch": 3, "state_dict": ordered, "best": torch.tensor(76.1)}
torch.save(checkpoint | {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, "nested.pth")
torch.save({"model": {"module." + k: v for k, v in ordered.items()}, "args": None}, "module.pth")
torch.save({"state_dict": {"model." + k: v for k, v in ordered.items()}}, "lightning.pth")
torch.save({k: torch.nn.Parameter(v) for k, v in tensors.items()}, "parameters.pth")
torch.save({k: v.half() for k, v in tensors.items()}, "f16.pth")
torch.save({k: v.bfloat16() for k, v in tensors.items()}, "bf16.pth")
torch.save({k: v.double() for k, v in tensors.items()}, "f64.pth")
torch.save({k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in state.items()}, "channels_last.pth")

flat = torch.cat([torch.zeros(3)] + [v.flatten() for v in tensors.values()])
views, offset = {}, 3
for name, tensor in tensors.items():
    views[name] = flat[offset : offset + tensor.numel()].view(tensor.shape)
    offset += tensor.numel()
views["fc.weight"] = tensors["fc.weight"].t().contiguous().t()
every_second = torch.zeros(8)
every_second[1::2] = tensors["bn1.bias"]
views["bn1.bias"] = every_second[1::2]
torch.save(views, "strided.pth")  # one shared storage with offsets, a transposed tensor, one of stride 2

torch.save(ordered, "legacy.pth", _use_new_zipfile_serialization=False)
torch.save(module, "module_object.pth")
torch.save({"fc.weight": torch.ones(1).expand(5, 4)}, "expanded.pth")
torch.save({"state_dict": tensors, "hook": os.system}, "function.pth")

save_file(tensors | {"bn1.num_batches_tracked": torch.tensor(17)}, "plain.safetensors")
save_file({"model." + k: v for k, v in tensors.items()}, "prefixed.safetensors")
save_file({k: v.half() for k, v in tensors.items()}, "f16.safetensors")
save_file({k: v.bfloat16() for k, v in tensors.items()}, "bf16.safetensors")
save_file({k: v.double() for k, v in tensors.items()}, "f64.safetensors")
