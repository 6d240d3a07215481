//! The one list of architectures.

use crate::ir::{DepthRule, Graph, Shape};

/// A named network of one family.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// `resnet50`; torchvision's or timm's name where they have the network.
    pub name: &'static str,
    /// `resnet`, `resnext`, `wide_resnet`, `plain`, ...
    pub family: &'static str,
    /// The number in the name.
    pub depth: usize,
    pub depth_rule: DepthRule,
    /// Side of the square input image it was designed for, in pixels.
    pub input_size: usize,
    /// Classes of the data set it was designed for.
    pub classes: usize,
    /// Builds the graph for an input shape and a number of classes.
    pub build: fn(Shape, usize) -> Result<Graph, String>,
}

/// Every architecture, by family, then depth.
pub fn all() -> impl Iterator<Item = &'static Architecture> {
    [].into_iter()
}

/// The architecture of that name.
pub fn find(name: &str) -> Option<&'static Architecture> {
    all().find(|a| a.name == name)
}
