//! What the three panels show.

use super::axis::{Axis, Scale};
use super::groups::Group;
use super::labels::Mark;
use super::legend;
use super::panel::{Name, Panel};
use super::scene::{INK, Point, Rect, Scene, Stroke};
use crate::commands::compare::Row;

/// Radius of the circle for the most parameters.
const LARGEST: f64 = 30.0;
/// Radius of other marks.
const MARK: f64 = 4.0;

/// An ImageNet network with its published top-1.
struct Known<'a> {
    row: &'a Row,
    group: &'a Group<'a>,
    top1: f64,
}

fn known<'a>(groups: &'a [Group<'a>]) -> Vec<Known<'a>> {
    let rows = groups
        .iter()
        .filter(|group| group.imagenet)
        .flat_map(|group| group.rows.iter().map(move |row| (group, *row)));
    rows.filter_map(|(group, row)| {
        let top1 = row.accuracy.as_ref()?.top1;
        Some(Known { row, group, top1 })
    })
    .collect()
}

const NOTHING: &str = "no network with a published accuracy on ImageNet is compared";
const TOP1: &str = "top-1 accuracy, %";

/// (a) Top-1 against multiply-accumulates, circle area by parameters.
pub(super) fn accuracy_and_cost(scene: &mut Scene, area: Rect, groups: &[Group<'_>]) {
    let mut known = known(groups);
    // small circles are painted over large ones
    known.sort_by_key(|network| std::cmp::Reverse(network.row.parameters));
    let cost = known.iter().map(|network| network.row.gmacs);
    let x = Axis::over(
        "multiply-accumulates for one image, 10⁹",
        Scale::Logarithmic,
        cost,
    );
    let y = Axis::over(
        TOP1,
        Scale::Linear,
        known.iter().map(|network| network.top1),
    );
    let title = "(a) Accuracy and cost; the area of a circle is the number of parameters";
    let panel = Panel::new(scene, area, title, x, y);
    legend::families(scene, area, groups, true);
    let Some(most) = known.first().map(|network| network.row.parameters) else {
        panel.note(scene, NOTHING);
        return;
    };
    let radius = |parameters: u64| LARGEST * (parameters as f64 / most as f64).sqrt();
    legend::sizes(scene, area, most, radius);
    let mut names = Vec::new();
    for Known { row, group, top1 } in &known {
        let at = panel.point(row.gmacs, *top1);
        let radius = radius(row.parameters);
        scene.disc(at, radius, group.colour, 0.4);
        scene.ring(at, radius, group.colour, 1.0);
        names.push(Name {
            text: &row.name,
            mark: Mark { at, radius },
        });
    }
    panel.label(scene, &names, &[]);
}

/// (b) Latency against depth, a line for each family.
pub(super) fn latency_and_depth(scene: &mut Scene, area: Rect, groups: &[Group<'_>]) {
    let rows = || groups.iter().flat_map(|group| &group.rows);
    let depths = rows().map(|row| row.depth as f64);
    let latencies = rows().map(|row| row.latency_ms.p50);
    let x = Axis::over("depth, weighted layers", Scale::Logarithmic, depths);
    let y = Axis::over("latency at batch 1, ms", Scale::Logarithmic, latencies);
    let title = "(b) Latency and depth; a line for each family";
    let panel = Panel::new(scene, area, title, x, y);
    legend::families(scene, area, groups, false);
    let mut names = Vec::new();
    let mut lines = Vec::new();
    for group in groups {
        let place = |row: &&Row| panel.point(row.depth as f64, row.latency_ms.p50);
        let points: Vec<Point> = group.rows.iter().map(place).collect();
        lines.extend(points.windows(2).map(|pair| (pair[0], pair[1])));
        for (index, &at) in points.iter().enumerate() {
            // the family is named once, at its deepest network
            let last = index + 1 == points.len();
            names.push(Name {
                text: if last { group.family } else { "" },
                mark: Mark { at, radius: MARK },
            });
        }
        if points.len() > 1 {
            scene.line(points, group.stroke());
        }
    }
    for group in groups {
        for row in &group.rows {
            group.mark(
                scene,
                panel.point(row.depth as f64, row.latency_ms.p50),
                MARK,
            );
        }
    }
    panel.label(scene, &names, &lines);
}

/// (c) Top-1 against images a second, with the Pareto front.
pub(super) fn accuracy_and_speed(scene: &mut Scene, area: Rect, groups: &[Group<'_>]) {
    let known = known(groups);
    let speed = |network: &Known<'_>| network.row.throughput.images_per_second;
    let x = "images a second at the best batch up to 32";
    let x = Axis::over(x, Scale::Logarithmic, known.iter().map(speed));
    let y = Axis::over(
        TOP1,
        Scale::Linear,
        known.iter().map(|network| network.top1),
    );
    let title =
        "(c) Accuracy and speed, with the networks that none exceeds in both (Pareto front)";
    let panel = Panel::new(scene, area, title, x, y);
    legend::families(scene, area, groups, true);
    if known.is_empty() {
        panel.note(scene, NOTHING);
        return;
    }
    legend::front(scene, area);
    let merits: Vec<(f64, f64)> = known
        .iter()
        .map(|network| (speed(network), network.top1))
        .collect();
    let front: Vec<Point> = pareto_front(&merits)
        .into_iter()
        .map(|index| panel.point(merits[index].0, merits[index].1))
        .collect();
    let lines: Vec<_> = front.windows(2).map(|pair| (pair[0], pair[1])).collect();
    if front.len() > 1 {
        scene.line(front.clone(), FRONT);
    }
    for &at in &front {
        scene.ring(at, FRONT_MARK, FRONT.colour, FRONT.width);
    }
    let mut names = Vec::new();
    for network in &known {
        let at = panel.point(speed(network), network.top1);
        network.group.mark(scene, at, MARK);
        let radius = if front.contains(&at) {
            FRONT_MARK
        } else {
            MARK
        };
        names.push(Name {
            text: &network.row.name,
            mark: Mark { at, radius },
        });
    }
    panel.label(scene, &names, &lines);
}

pub(super) const FRONT: Stroke = Stroke {
    colour: INK,
    width: 1.2,
    dashed: true,
};
pub(super) const FRONT_MARK: f64 = 7.5;

/// Indices of the pairs that no other one exceeds in one member without being below it in the other, by the first
/// member; of equal pairs the first.
pub(super) fn pareto_front(merits: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..merits.len()).collect();
    let descending = |a: f64, b: f64| b.total_cmp(&a);
    order.sort_by(|&a, &b| {
        let (a, b) = (merits[a], merits[b]);
        descending(a.0, b.0).then(descending(a.1, b.1))
    });
    let mut best = f64::NEG_INFINITY;
    let mut front: Vec<usize> = Vec::new();
    for index in order {
        if merits[index].1 > best {
            best = merits[index].1;
            front.push(index);
        }
    }
    front.reverse();
    front
}
