//! resnetd: an image-classification inference server for residual networks and the families around them.
//!
//! A request is bytes that become an answer, and the rooms follow that way:
//! bytes → decode → preprocess (`imaging`) → queue → batch (`batching`) → forward (`engine`) → top-k (`service`) → reply
//! (`server`).
//!
//! Direction (left may use right): main → commands → config; server → service → repository, batching, imaging → engine →
//! weights, kernels, pool → ir; families → ir; pool → kernels (whose `Lending` is its one unsafe part); repository →
//! families, weights, imaging, engine. `ir` and `kernels` use nothing of ours; `telemetry` is a leaf that `ir`,
//! `families` and `kernels` never see. No room but `commands` and `config` imports
//! `config`. tests/layering.rs reads every `crate::` path and holds this.
//!
//! What never happens: decoding or a forward pass on the async runtime's workers; an unwrap on anything a request, a
//! file or a peer can influence; `unsafe` outside `kernels`, a memory map and the calls into CUDA's libraries (`engine::cuda`).

#![deny(unsafe_code)]
#![warn(missing_debug_implementations, rust_2018_idioms, unreachable_pub)]

pub mod batching;
pub mod commands;
pub mod config;
pub mod engine;
pub mod families;
pub mod imaging;
pub mod ir;
pub mod kernels;
pub mod pool;
pub mod repository;
pub mod server;
pub mod service;
pub mod telemetry;
pub mod weights;
