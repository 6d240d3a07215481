//! The Open Inference Protocol, version 2 (KServe, Triton): what its HTTP and gRPC forms share.
//!
//! Both forms read a request into [`Infer`] and write an [`Answer`] in their own way; every check and every sentence in
//! between is here. `describe` makes the messages about models, which HTTP shows as JSON. docs/protocols.md lists what is
//! supported.

pub(super) mod describe;
mod infer;
mod outputs;
mod parameters;
mod tensor;

pub(super) use infer::{Answer, Infer, infer};
pub(super) use outputs::{Tensor as OutputTensor, Values};
pub(super) use parameters::{Parameters, Value, check_load, check_unload};
pub(super) use tensor::{Data, Tensor, frame};

use crate::server::Core;

/// The one input of every model.
pub(super) const INPUT: &str = "input";

/// What an infer request has besides its largest tensor: names, shapes, a JSON header.
const HEADER_ROOM: usize = 64 << 10;

/// Bytes that an infer request may have: what `--max-images-per-request` images need as tensors of the largest model
/// served, and never less than `--max-body-bytes`.
pub(super) fn message_limit(core: &Core) -> usize {
    let models = core.classify.models();
    let ready = models.iter().flat_map(|model| model.ready());
    let tensor = |values: usize| {
        let bytes = values.saturating_mul(size_of::<f32>());
        bytes.saturating_mul(core.config.max_images_per_request)
    };
    let largest = ready.map(|model| tensor(model.input.elements())).max();
    let needed = largest.map_or(0, |bytes| bytes.saturating_add(HEADER_ROOM));
    needed.max(core.config.max_body_bytes)
}

/// A caller's text in an error's sentence: quoted, and no longer than a name could be.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// Versions that are not given are empty.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
