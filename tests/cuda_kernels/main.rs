//! The CUDA kernels' arithmetic, compared with loops written here. An ordinary build compiles kernels.cu with the C++
//! compiler against shim.h and launches it on the host as launch/ would on a card: no GPU and no CUDA toolkit are needed.
//! A build with the feature `cudnn` runs the same cases on the first card, through the engine's own loader.

mod answers;
mod buffer;
mod far;
mod images;
mod map;
mod memory;
mod pool;

#[cfg_attr(not(feature = "cudnn"), path = "host.rs")]
#[cfg_attr(feature = "cudnn", path = "card.rs")]
mod machine;

#[path = "../../src/engine/cuda/device/launch/mod.rs"]
mod launch;

#[cfg(feature = "cudnn")]
#[path = "../../src/engine/cuda/device/kernels.rs"]
#[allow(dead_code)] // what prepares a pooling layer
mod loaded;

use launch::Element;
#[cfg(feature = "cudnn")]
use resnetd::kernels; // which kernels.rs finds at its crate's root

const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];

fn any_element() -> impl proptest::strategy::Strategy<Value = Element> {
    proptest::sample::select(ELEMENTS.to_vec())
}
