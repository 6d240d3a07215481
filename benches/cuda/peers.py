"""The PyTorch peers of compare.py: a torchvision network under a captured CUDA graph, and under torch.compile.

As a program it writes the random weights of a network: peers.py resnet50 resnet50.safetensors
"""

import sys
import time

import torch
import torch._inductor.select_algorithm
import torchvision
from safetensors.torch import save_file
from torch.fx.experimental.optimization import fuse

SEED = 20151210
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


def network(name, file):
    """A torchvision network of random weights, also written to `file`.

    They are drawn so that no signal dies out or outgrows f16 with depth: every convolution keeps the scale of its input,
    every batch norm but halves its square, as if trained to.
    """
    torch.manual_seed(SEED)
    net = getattr(torchvision.models, name)(weights=None).eval()
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 0.9)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    state = net.state_dict().items()
    save_file({key: value.contiguous() for key, value in state if value.is_floating_point()}, str(file))
    return net


def layers(net, size=224):
    """For each layer that reads and writes activations: multiply-accumulates, values read and written an image, weights."""
    found = []

    def note(module, inputs, output):
        moved = sum(value.numel() for value in inputs) + output.numel()
        macs, weights = 0, sum(parameter.numel() for parameter in module.parameters())
        if isinstance(module, torch.nn.Conv2d):
            macs = output.numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            macs = module.weight.numel()
        found.append((macs, moved, weights))

    kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.MaxPool2d, torch.nn.AdaptiveAvgPool2d)
    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        net(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return found


def reference(net, images, device):
    """Logits in f32, without TF32, which PyTorch allows convolutions alone."""
    torch.backends.cudnn.allow_tf32 = False
    net = net.to(device)
    with torch.no_grad():
        parts = [net(part.to(device)).cpu() for part in images.split(64)]
    return torch.cat(parts).numpy()


class Peer:
    """A network at one batch size. `whole` takes images from the host and brings logits back; `alone` is the forward pass."""

    def __init__(self, net, images, precision, device, kind):
        dtype = DTYPES[precision]
        torch.backends.cudnn.benchmark = True
        net = fuse(net.cpu()).to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self.cuda = device.startswith("cuda")
        self.x = images.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self.host = images.pin_memory() if self.cuda else images
        self.landing = torch.empty_like(images, device=device)
        self.y = None
        with torch.no_grad():
            self.forward = {"graph": self.captured, "compile": self.compiled}[kind](net)
            self.alone()
        self.logits = torch.empty(self.y.shape, dtype=dtype, pin_memory=self.cuda)

    def captured(self, net):
        def eager():
            self.y = net(self.x)

        if not self.cuda:
            return eager
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            eager()
        return graph.replay

    def compiled(self, net):
        torch._dynamo.reset()
        # a table of every layer's candidates else
        torch._inductor.select_algorithm.PRINT_AUTOTUNE = False
        if self.cuda:
            # else the input is copied once more for its own graph
            torch._dynamo.mark_static_address(self.x)
        fast = torch.compile(net, mode="max-autotune", fullgraph=True, dynamic=False)

        def run():
            # the graph's own memory, which the next run writes anew
            self.y = None
            self.y = fast(self.x)

        for _ in range(4):
            run()
        return run

    def alone(self):
        self.forward()
        self.wait()

    def whole(self):
        self.landing.copy_(self.host, non_blocking=True)
        self.x.copy_(self.landing)
        self.forward()
        self.logits.copy_(self.y, non_blocking=True)
        self.wait()

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def times(self, run, seconds):
        """Seconds of each batch, sorted."""
        taken = []
        with torch.no_grad():
            for _ in range(5):
                run()
            start = time.perf_counter()
            while time.perf_counter() - start < seconds or len(taken) < 3:
                begun = time.perf_counter()
                run()
                taken.append(time.perf_counter() - begun)
        return sorted(taken)


if __name__ == "__main__":
    network(*sys.argv[1:])
