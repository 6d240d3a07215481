//! A panel's frame: title, axes with ticks and units, grid; and where a pair of values lies in it.

use super::axis::Axis;
use super::labels::{self, Mark, Room, Wanted};
use super::scene::{Align, FAINT, GRID, INK, Point, Rect, Scene, Stroke, TextStyle};
use super::{PANEL, WIDTH};

/// Of the right column, for legends.
pub(super) const LEGEND: f64 = 210.0;

const TITLE: TextStyle = TextStyle::new(Align::Left, 17.0);
const AXIS: f64 = 14.0;
const TICK: f64 = 13.0;
const LABEL: f64 = 12.0;

#[derive(Debug)]
pub(super) struct Panel {
    /// What the axes enclose.
    area: Rect,
    x: Axis,
    y: Axis,
}

impl Panel {
    /// What the axes of a panel enclose that begins, with its title, at `top`.
    pub(super) fn area(top: f64) -> Rect {
        Rect {
            left: 70.0,
            top: top + 70.0,
            right: WIDTH - LEGEND,
            bottom: top + PANEL - 60.0,
        }
    }

    /// Draws the frame.
    pub(super) fn new(scene: &mut Scene, area: Rect, title: &str, x: Axis, y: Axis) -> Self {
        let at = |x: f64, y: f64| Point { x, y };
        scene.text(at(24.0, area.top - 48.0), title, TITLE);
        let panel = Self { area, x, y };
        panel.grid(scene);
        let border = vec![
            at(area.left, area.top),
            at(area.left, area.bottom),
            at(area.right, area.bottom),
        ];
        scene.line(border, Stroke::solid(INK, 1.0));
        let centre = at(area.centre().x, area.bottom + 42.0);
        scene.text(centre, panel.x.title, TextStyle::new(Align::Middle, AXIS));
        // above its axis rather than along it, where it is read without turning the head
        let above = at(24.0, area.top - 20.0);
        scene.text(above, panel.y.title, TextStyle::new(Align::Left, AXIS));
        panel
    }

    fn grid(&self, scene: &mut Scene) {
        let Rect {
            left,
            top,
            right,
            bottom,
        } = self.area;
        let faint = Stroke::solid(GRID, 1.0);
        let at = |x: f64, y: f64| Point { x, y };
        for (value, text) in self.x.ticks() {
            let x = self.across(value);
            scene.line(vec![at(x, top), at(x, bottom)], faint);
            let style = TextStyle::new(Align::Middle, TICK);
            scene.text(at(x, bottom + 16.0), &text, style);
        }
        for (value, text) in self.y.ticks() {
            let y = self.down(value);
            scene.line(vec![at(left, y), at(right, y)], faint);
            let style = TextStyle::new(Align::Right, TICK);
            scene.text(at(left - 8.0, y), &text, style);
        }
    }

    pub(super) fn point(&self, x: f64, y: f64) -> Point {
        Point {
            x: self.across(x),
            y: self.down(y),
        }
    }

    fn across(&self, value: f64) -> f64 {
        self.area.left + self.x.fraction(value) * (self.area.right - self.area.left)
    }

    fn down(&self, value: f64) -> f64 {
        self.area.bottom - self.y.fraction(value) * (self.area.bottom - self.area.top)
    }

    /// Writes names beside their marks, as far as there is room that other marks and lines leave.
    pub(super) fn label(&self, scene: &mut Scene, names: &[Name<'_>], lines: &[(Point, Point)]) {
        let style = TextStyle::new(Align::Middle, LABEL);
        let (named, other): (Vec<&Name<'_>>, Vec<&Name<'_>>) =
            names.iter().partition(|name| !name.text.is_empty());
        let wanted: Vec<Wanted> = named
            .iter()
            .map(|name| Wanted {
                mark: name.mark,
                size: style.extent(name.text),
            })
            .collect();
        let marks: Vec<Mark> = other.iter().map(|name| name.mark).collect();
        let room = Room {
            bounds: self.area,
            marks: &marks,
            lines,
        };
        for (name, place) in named.iter().zip(labels::place(&wanted, room)) {
            let Some(place) = place else { continue };
            if let Some((from, to)) = place.leader {
                scene.line(vec![from, to], Stroke::solid(FAINT, 1.0));
            }
            scene.text(place.rect.centre(), name.text, style);
        }
    }

    /// Says why nothing is shown.
    pub(super) fn note(&self, scene: &mut Scene, text: &str) {
        let style = TextStyle::new(Align::Middle, AXIS).coloured(FAINT);
        scene.text(self.area.centre(), text, style);
    }
}

/// The label of one mark; a mark whose text is empty is only kept free.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) text: &'a str,
    pub(super) mark: Mark,
}
