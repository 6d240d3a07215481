//! Compute kernels: slices in, slices out, no tensors of any library and nothing else of ours.
//!
//! Activations lie in blocks of the vector's width ([`Layout`]); a kernel is prepared once (shapes checked, weights
//! packed) and then run on batches, on whatever [`Threads`] the caller brings. Arithmetic is written once over the
//! `Simd` trait; an instruction set is a token that detection hands out. [`reference`] says in plain loops what every
//! kernel means, and the tests hold each of them to it.
//!
//! This is the one room with `unsafe`: bounds are proven where a kernel is made and called, and the loops below rely on
//! that.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod buffer;
mod conv;
mod disjoint;
mod epilogue;
mod isa;
mod layout;
mod lending;
mod map;
mod pack;
mod pool;
pub mod reference;
mod simd;
#[cfg(test)]
mod tests;

pub use buffer::{Buffer, give_back};
pub use conv::{Algorithm, Conv, ConvCall, ConvParts, ConvSpec, Misfit};
pub use disjoint::{Serial, Threads};
pub use epilogue::{Epilogue, Operation};
pub use isa::{Avx2, Avx512, Isa, Portable, Token};
pub use layout::{Element, Layout};
pub use lending::Lending;
pub use map::Map;
pub use pack::{Part, concat, flatten, from_planes, to_planes};
pub use pool::{Pool, PoolSpec, Reduce, Window};
