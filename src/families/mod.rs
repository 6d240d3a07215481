//! Networks as data: one file a family, each turning a few numbers into a graph; `registry` is the one list.

mod cifar_resnet;
mod cifar_resnext;
mod preact;
mod registry;
mod resnet;
mod resnetv2;
mod wrn;

pub use registry::{Architecture, all, find};
