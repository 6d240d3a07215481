//! What colours, marks and sizes mean, in the column to the right of a panel.

use super::groups::Group;
use super::panels::{FRONT, FRONT_MARK};
use super::scene::{Align, FAINT, INK, Point, Rect, Scene, TextStyle};

const LINE: f64 = 18.0;
/// Between circles.
const SPACE: f64 = 6.0;
const TEXT: TextStyle = TextStyle::new(Align::Left, 12.5);
const HEADING: TextStyle = TEXT.coloured(FAINT);

/// The families of a panel; those of ImageNet `only`, of which those alone with a published accuracy are in it.
pub(super) fn families(scene: &mut Scene, area: Rect, groups: &[Group<'_>], only: bool) {
    let shown = |imagenet: bool| {
        groups.iter().filter(move |group| {
            let accurate = group.rows.iter().any(|row| row.accuracy.is_some());
            group.imagenet == imagenet && (!only || (imagenet && accurate))
        })
    };
    let left = area.right + 20.0;
    let mut y = area.top + 4.0;
    for (imagenet, heading) in [(true, "ImageNet"), (false, "CIFAR-10")] {
        if shown(imagenet).next().is_none() {
            continue;
        }
        scene.text(Point { x: left, y }, heading, HEADING);
        y += LINE;
        for group in shown(imagenet) {
            let at = |x: f64| Point { x: left + x, y };
            if !only {
                scene.line(vec![at(0.0), at(26.0)], group.stroke());
            }
            group.mark(scene, at(13.0), 4.5);
            scene.text(at(34.0), group.family, TEXT);
            y += LINE;
        }
        y += LINE / 2.0;
    }
}

/// Three circles with the parameters they stand for, at the bottom of the column.
pub(super) fn sizes(scene: &mut Scene, area: Rect, most: u64, radius: impl Fn(u64) -> f64) {
    let left = area.right + 20.0;
    let most = 10f64.powf((most as f64).log10().floor()) as u64;
    let shown = [most / 10, most / 4, most];
    let largest = radius(most);
    let height: f64 = shown.iter().map(|&count| 2.0 * radius(count) + SPACE).sum();
    let mut y = area.bottom - height;
    let heading = Point {
        x: left,
        y: y - 8.0,
    };
    scene.text(heading, "parameters", HEADING);
    for parameters in shown {
        let radius = radius(parameters);
        y += SPACE + radius;
        scene.ring(
            Point {
                x: left + largest,
                y,
            },
            radius,
            INK,
            1.0,
        );
        let text = format!("{} million", parameters as f64 / 1e6);
        let x = left + 2.0 * largest + 10.0;
        scene.text(Point { x, y }, &text, TEXT);
        y += radius;
    }
}

/// How the Pareto front is drawn, at the bottom of the column.
pub(super) fn front(scene: &mut Scene, area: Rect) {
    let at = |x: f64| Point {
        x: area.right + 20.0 + x,
        y: area.bottom - 10.0,
    };
    scene.line(vec![at(0.0), at(26.0)], FRONT);
    scene.ring(at(13.0), FRONT_MARK, FRONT.colour, FRONT.width);
    scene.text(at(34.0), "Pareto front", TEXT);
}
