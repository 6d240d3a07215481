//! The plan on a card.
//!
//! A [`Model`](model::Model) is a network's constants there, shared by the slots that run it; a [`Slot`](slot::Slot) is
//! a stream with memory of its own, so that one slot's copies overlap another's compute. Which [`algorithm`] computes a
//! layer is measured ([`tune`]); the whole network is then captured once for each batch bucket, and replayed.

mod algorithm;
mod constants;
mod cudnn;
mod driver;
mod engine;
mod kernels;
mod launch;
mod matmul;
mod memory;
mod model;
mod slot;
mod tune;

pub(crate) use engine::{CudaEngine, Target};
