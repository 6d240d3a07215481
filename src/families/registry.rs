//! The one list of architectures.

use super::{
    alexnet, cifar_resnet, cifar_resnext, googlenet, inception_resnet_v2, inception_v3,
    inception_v4, nin, preact, resnet, resnetv2, stochdepth, vgg, wrn,
};
use crate::ir::{DepthRule, Graph, Shape};

/// Builds a graph for an input shape and a number of classes; an error says which layer does not fit.
pub type Build = fn(Shape, usize) -> Result<Graph, String>;

/// A named network of one family.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// `resnet50`; torchvision's or timm's name where they have the network.
    pub name: &'static str,
    /// `resnet`, `resnext`, `wide_resnet`, `plain`, ...
    pub family: &'static str,
    /// Year in which its paper first appeared.
    pub year: u16,
    /// The number in the name, or what the rule counts where the name has none.
    pub depth: usize,
    /// How the family's paper counts that number.
    pub depth_rule: DepthRule,
    /// Side of the square input image it was designed for, in pixels.
    pub input_size: usize,
    /// Classes of the data set it was designed for.
    pub classes: usize,
    pub build: Build,
    /// Of a network trained with stochastic depth: the same without the scales of its branches, for weights whose training
    /// scaled them up instead.
    pub unscaled: Option<Build>,
}

const FAMILIES: &[&[Architecture]] = &[
    resnet::ARCHITECTURES,
    resnetv2::ARCHITECTURES,
    cifar_resnet::ARCHITECTURES,
    preact::ARCHITECTURES,
    wrn::ARCHITECTURES,
    cifar_resnext::ARCHITECTURES,
    alexnet::ARCHITECTURES,
    vgg::ARCHITECTURES,
    nin::ARCHITECTURES,
    googlenet::ARCHITECTURES,
    inception_v3::ARCHITECTURES,
    inception_v4::ARCHITECTURES,
    stochdepth::ARCHITECTURES,
    inception_resnet_v2::ARCHITECTURES,
];

impl Architecture {
    /// An ImageNet network: 224 x 224 pixels, 1000 classes, depth by the longest path.
    pub(super) const fn imagenet(
        name: &'static str,
        family: &'static str,
        year: u16,
        depth: usize,
        build: Build,
    ) -> Self {
        Self {
            name,
            family,
            year,
            depth,
            depth_rule: DepthRule::LongestPath,
            input_size: 224,
            classes: 1000,
            build,
            unscaled: None,
        }
    }

    /// A CIFAR network: 32 x 32 pixels, 10 classes, depth by the longest path.
    pub(super) const fn cifar(
        name: &'static str,
        family: &'static str,
        year: u16,
        depth: usize,
        build: Build,
    ) -> Self {
        Self {
            input_size: 32,
            classes: 10,
            ..Self::imagenet(name, family, year, depth, build)
        }
    }

    /// The graph for the input size and classes it was designed for.
    ///
    /// # Errors
    /// The layer that does not fit; a mistake in the family's file.
    pub fn default_graph(&self) -> Result<Graph, String> {
        (self.build)(
            Shape::new(3, self.input_size, self.input_size),
            self.classes,
        )
    }
}

/// Every architecture, family by family.
pub fn all() -> impl Iterator<Item = &'static Architecture> {
    FAMILIES.iter().copied().flatten()
}

/// The architecture of that name.
pub fn find(name: &str) -> Option<&'static Architecture> {
    all().find(|a| a.name == name)
}
