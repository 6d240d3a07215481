//! The comparison as a picture of three panels: accuracy against cost, latency against depth, accuracy against speed.
//!
//! Panels draw into a scene; the scene is painted as SVG or PNG.

mod axis;
mod groups;
mod labels;
mod legend;
mod panel;
mod panels;
mod render;
mod scene;

use std::path::Path;

use anyhow::{Result, bail};

use self::groups::groups;
use self::panel::Panel;
use self::scene::{Align, FAINT, Point, Rect, Scene, TextStyle};
use super::Comparison;

/// Of a picture, by the end of its file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Svg,
    Png,
}

impl Format {
    /// # Errors
    /// When the name ends in neither.
    pub(super) fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|end| end.to_str()) {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => bail!(
                "--plot {}: the name must end in .svg or .png",
                path.display()
            ),
        }
    }
}

const WIDTH: f64 = 1200.0;
/// Of one panel with its titles.
const PANEL: f64 = 600.0;
const HEADER: f64 = 60.0;
const FOOTER: f64 = 60.0;

/// The picture's file.
///
/// # Errors
/// When plotters fails, which it has no reason to.
pub(super) fn draw(comparison: &Comparison, format: Format) -> Result<Vec<u8>> {
    let scene = scene(comparison);
    match format {
        Format::Svg => render::svg(&scene),
        Format::Png => render::png(&scene),
    }
}

fn scene(comparison: &Comparison) -> Scene {
    let groups = groups(&comparison.models);
    let mut scene = Scene::new(WIDTH, HEADER + 3.0 * PANEL + FOOTER);
    let left = |x: f64, y: f64| Point { x, y };
    scene.text(
        left(24.0, 26.0),
        &format!("{} on one machine", networks(comparison.models.len(), "")),
        TextStyle::new(Align::Left, 20.0),
    );
    scene.text(
        left(24.0, 50.0),
        &format!("{}; latency is the median at batch 1", comparison.machine),
        TextStyle::new(Align::Left, 13.0).coloured(FAINT),
    );
    let draw: [fn(&mut Scene, Rect, &[groups::Group<'_>]); 3] = [
        panels::accuracy_and_cost,
        panels::latency_and_depth,
        panels::accuracy_and_speed,
    ];
    for (index, draw) in draw.into_iter().enumerate() {
        draw(
            &mut scene,
            Panel::area(HEADER + index as f64 * PANEL),
            &groups,
        );
    }
    caption(&mut scene, comparison);
    scene
}

/// What is not in the picture, and why.
fn caption(scene: &mut Scene, comparison: &Comparison) {
    let models = &comparison.models;
    let other_data = models.iter().filter(|row| !row.is_imagenet()).count();
    let unknown = models
        .iter()
        .filter(|row| row.is_imagenet() && row.accuracy.is_none());
    let mut missing = Vec::new();
    if other_data > 0 {
        missing.push(networks(other_data, "CIFAR ") + ", whose accuracy is on another data set");
    }
    let unknown = unknown.count();
    if unknown > 0 {
        missing.push(networks(unknown, "") + " without a published accuracy");
    }
    let mut lines = vec![
        "Top-1 is the accuracy on ImageNet that the published weights' authors state; speed was measured with generated \
         weights."
            .to_owned(),
    ];
    if !missing.is_empty() {
        lines.push(format!("Not in (a) and (c): {}.", missing.join("; ")));
    }
    for (index, line) in lines.iter().enumerate() {
        let at = Point {
            x: 24.0,
            y: scene.height - FOOTER + 18.0 + 20.0 * index as f64,
        };
        scene.text(at, line, TextStyle::new(Align::Left, 13.0).coloured(FAINT));
    }
}

fn networks(count: usize, kind: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {kind}network{end}")
}

#[cfg(test)]
mod tests;
