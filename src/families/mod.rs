//! Networks as data: one file a family, each turning a few numbers into a graph; `registry` is the one list.

mod alexnet;
mod cifar_resnet;
mod cifar_resnext;
mod googlenet;
mod inception;
mod inception_resnet_v2;
mod inception_v3;
mod inception_v4;
mod nin;
mod preact;
mod registry;
mod resnet;
mod resnetv2;
mod stochdepth;
mod vgg;
mod wrn;

pub use registry::{Architecture, Build, all, find};
