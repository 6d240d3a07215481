//! A picture as a list of shapes, in pixels from the top left: what panels draw into and [`super::render`] paints.

use super::render;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// With its sides; `top` is less than `bottom`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(pub(super) u8, pub(super) u8, pub(super) u8);

pub(super) const WHITE: Colour = Colour(255, 255, 255);
pub(super) const INK: Colour = Colour(34, 34, 34);
pub(super) const FAINT: Colour = Colour(110, 110, 110);
pub(super) const GRID: Colour = Colour(226, 226, 226);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stroke {
    pub(super) colour: Colour,
    pub(super) width: f64,
    pub(super) dashed: bool,
}

/// Which end of a text lies at its point; up and down its middle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Middle,
    Right,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Line {
        points: Vec<Point>,
        stroke: Stroke,
    },
    Disc {
        centre: Point,
        radius: f64,
        colour: Colour,
        /// 0 is invisible, 1 hides what lies below.
        opacity: f64,
    },
    Ring {
        centre: Point,
        radius: f64,
        colour: Colour,
        width: f64,
    },
    Text {
        at: Point,
        align: Align,
        size: f64,
        colour: Colour,
        text: String,
    },
}

/// Shapes in the order they are painted, on white.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) shapes: Vec<Shape>,
}

impl Stroke {
    pub(super) fn solid(colour: Colour, width: f64) -> Self {
        Self {
            colour,
            width,
            dashed: false,
        }
    }
}

impl Rect {
    pub(super) fn centre(&self) -> Point {
        Point {
            x: f64::midpoint(self.left, self.right),
            y: f64::midpoint(self.top, self.bottom),
        }
    }

    /// Whether the two share more than an edge.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && self.right >= other.right
            && self.bottom >= other.bottom
    }

    /// The point of it that is nearest to `to`.
    pub(super) fn nearest(&self, to: Point) -> Point {
        Point {
            x: to.x.clamp(self.left, self.right),
            y: to.y.clamp(self.top, self.bottom),
        }
    }
}

impl Scene {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            shapes: Vec::new(),
        }
    }

    pub(super) fn line(&mut self, points: Vec<Point>, stroke: Stroke) {
        self.shapes.push(Shape::Line { points, stroke });
    }

    pub(super) fn disc(&mut self, centre: Point, radius: f64, colour: Colour, opacity: f64) {
        self.shapes.push(Shape::Disc {
            centre,
            radius,
            colour,
            opacity,
        });
    }

    pub(super) fn ring(&mut self, centre: Point, radius: f64, colour: Colour, width: f64) {
        self.shapes.push(Shape::Ring {
            centre,
            radius,
            colour,
            width,
        });
    }

    pub(super) fn text(&mut self, at: Point, text: &str, style: TextStyle) {
        let TextStyle {
            align,
            size,
            colour,
        } = style;
        self.shapes.push(Shape::Text {
            at,
            align,
            size,
            colour,
            text: text.to_owned(),
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TextStyle {
    pub(super) align: Align,
    pub(super) size: f64,
    pub(super) colour: Colour,
}

impl TextStyle {
    pub(super) const fn new(align: Align, size: f64) -> Self {
        Self {
            align,
            size,
            colour: INK,
        }
    }

    pub(super) const fn coloured(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }

    /// Width and height of a text, with room for the wider font that whoever looks at an SVG may have.
    pub(super) fn extent(&self, text: &str) -> (f64, f64) {
        (1.08 * render::text_width(text, self.size), 1.2 * self.size)
    }
}
