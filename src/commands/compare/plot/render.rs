//! Paints a scene with plotters, as SVG or PNG.

use anyhow::{Context, Result, anyhow};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::scene::{Align, Colour, Point, Scene, Shape};

/// In an SVG the first of these that the viewer has is used; in a PNG, and to measure, the one embedded here.
const FONT: &str = "Ubuntu, Helvetica, Arial, sans-serif";
/// Pixels of a PNG for one of the scene, so that it is sharp on dense screens.
const PNG_SCALE: f64 = 2.0;
/// Share of a letter's size by which plotters sets text too high in a bitmap.
const PNG_RISE: f64 = 0.17;
/// What plotters calls a font's size is its line's height; this is that of a font whose letter em is 1.
const LINE: f64 = 1.24;

#[derive(Clone, Copy)]
struct Medium {
    /// Pixels for one of the scene.
    scale: f64,
    /// Share of its size that text is set lower, to lie right.
    rise: f64,
}

type Painted<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

pub(super) fn svg(scene: &Scene) -> Result<Vec<u8>> {
    register_font()?;
    let mut text = String::new();
    let size = (scene.width as u32, scene.height as u32);
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    paint(
        scene,
        &area,
        Medium {
            scale: 1.0,
            rise: 0.0,
        },
    )
    .map_err(|e| anyhow!("cannot draw the SVG: {e}"))?;
    drop(area);
    Ok(text.into_bytes())
}

pub(super) fn png(scene: &Scene) -> Result<Vec<u8>> {
    register_font()?;
    let width = (scene.width * PNG_SCALE) as u32;
    let height = (scene.height * PNG_SCALE) as u32;
    let medium = Medium {
        scale: PNG_SCALE,
        rise: PNG_RISE,
    };
    let mut pixels = vec![0; width as usize * height as usize * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    paint(scene, &area, medium).map_err(|e| anyhow!("cannot draw the PNG: {e}"))?;
    drop(area);
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::NoFilter)
        .write_image(&pixels, width, height, ExtendedColorType::Rgb8)
        .context("cannot encode the PNG")?;
    Ok(file)
}

/// Width of a text in the embedded font; 0 where the font cannot be read, which drawing then reports.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    // boxes are whole pixels
    const FINE: f64 = 16.0;
    if register_font().is_err() {
        return 0.0;
    }
    let font = (FONT, size * LINE * FINE).into_font();
    font.box_size(text)
        .map_or(0.0, |(width, _)| f64::from(width) / FINE)
}

fn register_font() -> Result<()> {
    let font = epaint_default_fonts::UBUNTU_LIGHT;
    plotters::style::register_font(FONT, FontStyle::Normal, font)
        .map_err(|_| anyhow!("the embedded font cannot be read"))
}

fn paint<B: DrawingBackend>(
    scene: &Scene,
    area: &DrawingArea<B, Shift>,
    medium: Medium,
) -> Painted<B> {
    area.fill(&WHITE)?;
    for shape in &scene.shapes {
        paint_shape(shape, area, medium)?;
    }
    area.present()
}

fn paint_shape<B: DrawingBackend>(
    shape: &Shape,
    area: &DrawingArea<B, Shift>,
    medium: Medium,
) -> Painted<B> {
    let Medium { scale, rise } = medium;
    let place = |point: &Point| {
        let coordinate = |value: f64| (value * scale).round() as i32;
        (coordinate(point.x), coordinate(point.y))
    };
    let pixels = |length: f64| (length * scale).round().max(1.0) as u32;
    match shape {
        Shape::Line { points, stroke } => {
            let style = rgb(stroke.colour).stroke_width(pixels(stroke.width));
            let points: Vec<_> = points.iter().map(place).collect();
            match stroke.dashed {
                true => area.draw(&DashedPathElement::new(
                    points,
                    pixels(5.0),
                    pixels(3.0),
                    style,
                )),
                false => area.draw(&PathElement::new(points, style)),
            }
        }
        Shape::Disc {
            centre,
            radius,
            colour,
            opacity,
        } => {
            let style = rgb(*colour).mix(*opacity).filled();
            area.draw(&Circle::new(place(centre), pixels(*radius), style))
        }
        Shape::Ring {
            centre,
            radius,
            colour,
            width,
        } => {
            let style = rgb(*colour).stroke_width(pixels(*width));
            area.draw(&Circle::new(place(centre), pixels(*radius), style))
        }
        Shape::Text {
            at,
            align,
            size,
            colour,
            text,
        } => {
            let horizontal = match align {
                Align::Left => HPos::Left,
                Align::Middle => HPos::Center,
                Align::Right => HPos::Right,
            };
            let colour = rgb(*colour);
            let style = (FONT, size * LINE * scale)
                .into_font()
                .color(&colour)
                .pos(Pos::new(horizontal, VPos::Center));
            let y = at.y + rise * size;
            area.draw(&Text::new(text.as_str(), place(&Point { y, ..*at }), style))
        }
    }
}

fn rgb(Colour(red, green, blue): Colour) -> RGBColor {
    RGBColor(red, green, blue)
}
