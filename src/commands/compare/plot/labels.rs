//! Places labels beside their points so that none covers another label, a point or a line.
//!
//! Greedy, as is usual for maps (Christensen et al. 1995, "An Empirical Study of Algorithms for Point-Feature Label
//! Placement", 3.1): each label takes the first free place, close to its point or farther away with a leader line.

use std::f64::consts::TAU;

use super::scene::{Point, Rect};

/// A circle that no label may cover.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) at: Point,
    pub(super) radius: f64,
}

/// A label that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// What the label belongs to.
    pub(super) mark: Mark,
    /// Width and height of the text.
    pub(super) size: (f64, f64),
}

/// Where labels may lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room<'a> {
    pub(super) bounds: Rect,
    /// Marks without a label.
    pub(super) marks: &'a [Mark],
    pub(super) lines: &'a [(Point, Point)],
}

/// Where a label has found room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placed {
    pub(super) rect: Rect,
    /// From the mark to the label, where it does not lie right beside it.
    pub(super) leader: Option<(Point, Point)>,
}

/// Free pixels between a mark and its label; only the first needs no leader line.
const GAPS: [f64; 10] = [2.0, 9.0, 17.0, 26.0, 38.0, 52.0, 70.0, 90.0, 115.0, 145.0];
/// How often labels that found no place are let choose first.
const RETRIES: usize = 8;
/// Eighths, then sixteenths of a turn, clockwise from the right: which place is best liked.
const TURNS: [f64; 16] = [
    0.0, 14.0, 2.0, 8.0, 10.0, 6.0, 12.0, 4.0, 15.0, 1.0, 7.0, 9.0, 13.0, 3.0, 11.0, 5.0,
];

impl Mark {
    /// Whether a part of it lies below the inside of a rectangle.
    fn is_under(&self, rect: &Rect) -> bool {
        let nearest = rect.nearest(self.at);
        (nearest.x - self.at.x).hypot(nearest.y - self.at.y) < self.radius
    }
}

/// A place for each label within the bounds, or `None` where there is none left.
///
/// No two places overlap, none overlaps a mark or is crossed by a line, and leader lines cross neither labels nor each
/// other nor the middle of another mark.
pub(super) fn place(wanted: &[Wanted], room: Room<'_>) -> Vec<Option<Placed>> {
    let left_out = |places: &[Option<Placed>]| places.iter().filter(|p| p.is_none()).count();
    let mut order = by_crowd(wanted);
    let mut best = in_order(&order, wanted, room);
    let mut places = best.clone();
    for _ in 0..RETRIES {
        if left_out(&best) == 0 {
            break;
        }
        // what found no place had the least choice, and chooses first now
        order.sort_by_key(|&index| places[index].is_some());
        places = in_order(&order, wanted, room);
        if left_out(&places) < left_out(&best) {
            best.clone_from(&places);
        }
    }
    best
}

/// Each label of `order` at its best liked free place.
fn in_order(order: &[usize], wanted: &[Wanted], room: Room<'_>) -> Vec<Option<Placed>> {
    let own = wanted.iter().map(|label| label.mark);
    let marks: Vec<Mark> = own.chain(room.marks.iter().copied()).collect();
    let mut places: Vec<Option<Placed>> = vec![None; wanted.len()];
    for &index in order {
        let label = &wanted[index];
        let free = |candidate: &Placed| {
            let rect = &candidate.rect;
            room.bounds.contains(rect)
                && !marks.iter().any(|mark| mark.is_under(rect))
                && !room.lines.iter().any(|line| crosses(*line, rect))
                && !candidate.points_at_another(label.mark, &marks)
                && places
                    .iter()
                    .flatten()
                    .all(|placed| apart(placed, candidate))
        };
        places[index] = candidates(label).find(free);
    }
    places
}

impl Placed {
    /// Whether the leader line passes through the middle of a mark that is not its own.
    fn points_at_another(&self, own: Mark, marks: &[Mark]) -> bool {
        const MIDDLE: f64 = 0.6;
        let passes = |mark: &Mark| {
            let middle = MIDDLE * mark.radius;
            self.leader
                .is_some_and(|leader| *mark != own && distance(leader, mark.at) < middle)
        };
        marks.iter().any(passes)
    }
}

/// From a line to a point.
fn distance((from, to): (Point, Point), point: Point) -> f64 {
    let (x, y) = (to.x - from.x, to.y - from.y);
    let along = (point.x - from.x) * x + (point.y - from.y) * y;
    let share = (along / (x * x + y * y).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    (from.x + share * x - point.x).hypot(from.y + share * y - point.y)
}

/// Indices, those with most others nearby first: they have the least choice.
fn by_crowd(wanted: &[Wanted]) -> Vec<usize> {
    const NEARBY: f64 = 60.0;
    let near = |a: Point, b: Point| (a.x - b.x).hypot(a.y - b.y) < NEARBY;
    let crowd = |index: usize| {
        wanted
            .iter()
            .filter(|w| near(w.mark.at, wanted[index].mark.at))
            .count()
    };
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(crowd(index)));
    order
}

/// The places for one label, the best liked first.
fn candidates(label: &Wanted) -> impl Iterator<Item = Placed> {
    let Wanted { mark, size } = *label;
    GAPS.into_iter().flat_map(move |gap| {
        TURNS.into_iter().map(move |turn| {
            let (sine, cosine) = (turn / 16.0 * TAU).sin_cos();
            let at = |distance: f64| Point {
                x: mark.at.x + distance * cosine,
                y: mark.at.y + distance * sine,
            };
            let touched = at(mark.radius + gap);
            let (width, height) = size;
            let left = touched.x - width * (1.0 - cosine) / 2.0;
            let top = touched.y - height * (1.0 - sine) / 2.0;
            let rect = Rect {
                left,
                top,
                right: left + width,
                bottom: top + height,
            };
            let leader = (gap > GAPS[0]).then(|| (at(mark.radius), rect.nearest(mark.at)));
            Placed { rect, leader }
        })
    })
}

/// Whether two labels and their leader lines leave each other room.
fn apart(a: &Placed, b: &Placed) -> bool {
    let clear = |leader: Option<(Point, Point)>, rect: &Rect| {
        leader.is_none_or(|leader| !crosses(leader, rect))
    };
    let crossed = match (a.leader, b.leader) {
        (Some(a), Some(b)) => intersect(a, b),
        _ => false,
    };
    !a.rect.overlaps(&b.rect) && clear(a.leader, &b.rect) && clear(b.leader, &a.rect) && !crossed
}

/// Whether a line passes through the inside of a rectangle (Liang and Barsky 1984).
fn crosses((from, to): (Point, Point), rect: &Rect) -> bool {
    let (mut enters, mut leaves) = (0f64, 1f64);
    let sides = [
        (to.x - from.x, rect.left - from.x, rect.right - from.x),
        (to.y - from.y, rect.top - from.y, rect.bottom - from.y),
    ];
    for (step, low, high) in sides {
        if step == 0.0 {
            if low >= 0.0 || high <= 0.0 {
                return false;
            }
            continue;
        }
        let (a, b) = (low / step, high / step);
        enters = enters.max(a.min(b));
        leaves = leaves.min(a.max(b));
    }
    enters < leaves
}

/// Whether two lines have a point in common that is no end of either.
fn intersect((a, b): (Point, Point), (c, d): (Point, Point)) -> bool {
    let side = |p: Point, q: Point, r: Point| (q.x - p.x) * (r.y - p.y) - (q.y - p.y) * (r.x - p.x);
    side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Rect = Rect {
        left: 0.0,
        top: 0.0,
        right: 600.0,
        bottom: 300.0,
    };

    const ROOM: Room<'static> = Room {
        bounds: BOUNDS,
        marks: &[],
        lines: &[],
    };

    fn point(x: f64, y: f64) -> Point {
        Point { x, y }
    }

    fn wanted(x: f64, y: f64) -> Wanted {
        Wanted {
            mark: Mark {
                at: point(x, y),
                radius: 4.0,
            },
            size: (60.0, 14.0),
        }
    }

    fn labels() -> impl Strategy<Value = Vec<Wanted>> {
        let label =
            (0.0..600.0, 0.0..300.0, 1.0..25.0, 10.0..110.0).prop_map(|(x, y, radius, width)| {
                Wanted {
                    mark: Mark {
                        at: point(x, y),
                        radius,
                    },
                    size: (width, 14.0),
                }
            });
        prop::collection::vec(label, 0..40)
    }

    proptest! {
        #[test]
        fn nothing_covers_anything(wanted in labels(), from in 0.0..300.0, to in 0.0..300.0) {
            let line = (point(0.0, from), point(600.0, to));
            let places = place(&wanted, Room { lines: &[line], ..ROOM });
            prop_assert_eq!(places.len(), wanted.len());
            let placed: Vec<Placed> = places.iter().flatten().copied().collect();
            for (index, a) in placed.iter().enumerate() {
                prop_assert!(BOUNDS.contains(&a.rect), "{:?}", a);
                prop_assert!(!crosses(line, &a.rect), "{:?}", a);
                for label in &wanted {
                    prop_assert!(!label.mark.is_under(&a.rect));
                }
                for b in &placed[index + 1..] {
                    prop_assert!(!a.rect.overlaps(&b.rect), "{:?} and {:?}", a, b);
                    prop_assert!(apart(a, b), "{:?} and {:?}", a, b);
                }
            }
            let marks: Vec<Mark> = wanted.iter().map(|label| label.mark).collect();
            // a label that has no place has none that is free
            for (label, _) in wanted.iter().zip(&places).filter(|(_, place)| place.is_none()) {
                for candidate in candidates(label) {
                    let covered = wanted.iter().any(|w| w.mark.is_under(&candidate.rect));
                    prop_assert!(
                        covered
                            || crosses(line, &candidate.rect)
                            || candidate.points_at_another(label.mark, &marks)
                            || !BOUNDS.contains(&candidate.rect)
                            || placed.iter().any(|placed| !apart(placed, &candidate))
                    );
                }
            }
        }
    }

    #[test]
    fn a_lone_label_stands_to_the_right_and_turns_away_from_the_edge() {
        let places = place(&[wanted(300.0, 150.0), wanted(590.0, 50.0)], ROOM);
        let [Some(free), Some(edge)] = places[..] else {
            panic!("{places:?}");
        };
        assert_eq!((free.rect.left, free.leader), (306.0, None));
        assert!((free.rect.centre().y - 150.0).abs() < 1e-9);
        assert!(
            edge.rect.right <= 586.0 && edge.leader.is_none(),
            "{edge:?}"
        );
    }

    #[test]
    fn of_many_labels_at_one_place_some_get_leader_lines() {
        let crowd = vec![wanted(300.0, 150.0); 8];
        let places = place(&crowd, ROOM);
        let leaders = places
            .iter()
            .flatten()
            .filter(|placed| placed.leader.is_some())
            .count();
        assert!(places.iter().all(Option::is_some), "{places:?}");
        assert!((1..8).contains(&leaders), "{leaders}");
    }

    #[test]
    fn distance_is_to_the_nearest_point_of_the_line() {
        let line = (point(0.0, 0.0), point(10.0, 0.0));
        assert_eq!(distance(line, point(5.0, 3.0)), 3.0);
        assert_eq!(distance(line, point(14.0, 3.0)), 5.0);
        assert_eq!(
            distance((point(1.0, 1.0), point(1.0, 1.0)), point(4.0, 5.0)),
            5.0
        );
    }

    #[test]
    fn lines_cross_what_they_pass_through_alone() {
        let rect = Rect {
            left: 5.0,
            top: 5.0,
            right: 15.0,
            bottom: 15.0,
        };
        assert!(crosses((point(0.0, 0.0), point(20.0, 20.0)), &rect));
        assert!(crosses((point(10.0, 10.0), point(11.0, 10.0)), &rect));
        assert!(crosses((point(10.0, 0.0), point(10.0, 20.0)), &rect));
        assert!(!crosses((point(5.0, 0.0), point(5.0, 20.0)), &rect));
        assert!(!crosses((point(0.0, 0.0), point(4.0, 4.0)), &rect));
        assert!(!crosses((point(0.0, 12.0), point(8.0, 20.0)), &rect));
    }
}
