//! The CUDA kernels' arithmetic, on the host: kernels.cu is compiled with the C++ compiler against shim.h, launched as
//! launch/ would launch it on a card, and compared with loops written here. Needs no GPU and no CUDA toolkit.

mod answers;
mod buffer;
mod far;
mod images;
mod library;
mod map;
mod pool;

#[path = "../../src/engine/cuda/device/launch/mod.rs"]
mod launch;

use launch::Element;

const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];

fn any_element() -> impl proptest::strategy::Strategy<Value = Element> {
    proptest::sample::select(ELEMENTS.to_vec())
}
