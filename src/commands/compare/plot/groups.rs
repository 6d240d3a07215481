//! The networks by family and data set, each group with its colour and mark.

use super::scene::{Colour, Point, Scene, Stroke, WHITE};
use crate::commands::compare::Row;

/// The networks of one family for one data set, by depth.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) family: &'a str,
    pub(super) imagenet: bool,
    pub(super) colour: Colour,
    pub(super) rows: Vec<&'a Row>,
}

/// Far enough apart to be told from each other on white.
const COLOURS: [Colour; 12] = [
    Colour(127, 127, 127),
    Colour(214, 39, 40),
    Colour(31, 119, 180),
    Colour(44, 160, 44),
    Colour(255, 127, 14),
    Colour(140, 86, 75),
    Colour(148, 103, 189),
    Colour(214, 90, 180),
    Colour(188, 160, 10),
    Colour(10, 180, 200),
    Colour(20, 40, 110),
    Colour(0, 90, 70),
];

/// ImageNet's groups first, each in the order of the rows. Both data sets begin with the first colour, for groups of
/// different data sets differ in their marks.
pub(super) fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for imagenet in [true, false] {
        let before = groups.len();
        for row in rows.iter().filter(|row| row.is_imagenet() == imagenet) {
            let known = groups[before..].iter_mut().find(|g| g.family == row.family);
            match known {
                Some(group) => group.rows.push(row),
                None => groups.push(Group {
                    family: &row.family,
                    imagenet,
                    colour: COLOURS[(groups.len() - before) % COLOURS.len()],
                    rows: vec![row],
                }),
            }
        }
    }
    for group in &mut groups {
        let latency = |row: &Row| row.latency_ms.p50;
        group
            .rows
            .sort_by(|a, b| (a.depth.cmp(&b.depth)).then(latency(a).total_cmp(&latency(b))));
    }
    groups
}

impl Group<'_> {
    /// A full disc for ImageNet, a ring for another data set.
    pub(super) fn mark(&self, scene: &mut Scene, at: Point, radius: f64) {
        match self.imagenet {
            true => scene.disc(at, radius, self.colour, 1.0),
            false => {
                scene.disc(at, radius, WHITE, 1.0);
                scene.ring(at, radius, self.colour, 1.5);
            }
        }
    }

    /// Dashed for another data set than ImageNet.
    pub(super) fn stroke(&self) -> Stroke {
        Stroke {
            dashed: !self.imagenet,
            ..Stroke::solid(self.colour, 1.5)
        }
    }
}
