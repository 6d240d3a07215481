use std::path::Path;

use image::GenericImageView;

use super::panels::pareto_front;
use super::scene::{INK, Shape};
use super::*;
use crate::commands::compare::tests::example;
use crate::commands::compare::{Comparison, Row};

/// Many networks at nearly one place, of more families than there are colours.
fn crowd() -> Comparison {
    let example = example();
    let crowded = |index: usize| {
        let mut row: Row = example.models[index % 2].clone();
        row.name = format!("{}_variant{index}", row.name);
        row.family = format!("family{}", index % 15);
        row.gmacs *= 1.0 + index as f64 / 100.0;
        row.latency_ms.p50 *= 1.0 + index as f64 / 200.0;
        row
    };
    Comparison {
        models: (0..30).map(crowded).collect(),
        ..example
    }
}

fn texts(scene: &Scene) -> Vec<&str> {
    let found = scene.shapes.iter().filter_map(|shape| match shape {
        Shape::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    found.collect()
}

/// What a text covers, in the font embedded.
fn extent(shape: &Shape) -> Option<Rect> {
    let Shape::Text {
        at,
        align,
        size,
        text,
        ..
    } = shape
    else {
        return None;
    };
    let width = render::text_width(text, *size);
    let left = match align {
        Align::Left => at.x,
        Align::Middle => at.x - width / 2.0,
        Align::Right => at.x - width,
    };
    Some(Rect {
        left,
        top: at.y - size / 2.0,
        right: left + width,
        bottom: at.y + size / 2.0,
    })
}

#[test]
fn no_text_covers_another_or_leaves_the_picture() {
    for comparison in [example(), crowd()] {
        let scene = scene(&comparison);
        let picture = Rect {
            left: 0.0,
            top: 0.0,
            right: scene.width,
            bottom: scene.height,
        };
        let covered: Vec<Rect> = scene.shapes.iter().filter_map(extent).collect();
        for (index, text) in covered.iter().enumerate() {
            assert!(text.right - text.left > 4.0, "{:?}", texts(&scene)[index]);
            assert!(picture.contains(text), "{:?}", texts(&scene)[index]);
            for (other, overlapped) in covered.iter().enumerate().skip(index + 1) {
                let names = (texts(&scene)[index], texts(&scene)[other]);
                assert!(!text.overlaps(overlapped), "{names:?}");
            }
        }
    }
}

#[test]
fn accuracies_of_other_data_sets_and_unknown_ones_are_left_out_and_counted() {
    let scene = scene(&example());
    let count = |name: &str| texts(&scene).iter().filter(|text| **text == name).count();
    // panels (a) and (c) name networks
    assert_eq!((count("resnet18"), count("resnet50")), (2, 2));
    assert_eq!((count("resnet20"), count("plain18")), (0, 0));
    let caption = *texts(&scene).last().unwrap();
    assert!(
        caption.contains("1 CIFAR network") && caption.contains("1 network"),
        "{caption}"
    );

    let mut unknown = example();
    unknown.models.retain(|row| row.classes == 10);
    let scene = super::scene(&unknown);
    let notes = texts(&scene)
        .iter()
        .filter(|text| text.starts_with("no network"))
        .count();
    assert_eq!(notes, 2);
}

#[test]
fn an_svg_is_balanced_xml_with_the_names_escaped() {
    let mut comparison = example();
    comparison.models[0].name = "a<b&c".into();
    let svg = String::from_utf8(draw(&comparison, Format::Svg).unwrap()).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.contains("viewBox=\"0 0 1200 "),
        "{}",
        &svg[..80]
    );
    assert!(svg.contains("a&lt;b&amp;c") && !svg.contains("a<b"));
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.split_whitespace().next().expect("a tag has a name");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => assert_eq!(tag.matches('"').count() % 2, 0, "{tag}"),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(
        svg.contains("<circle") && svg.contains("<polyline") && svg.contains("top-1 accuracy, %")
    );
}

#[test]
fn a_png_shows_the_scene_at_twice_its_size() {
    let scene = scene(&example());
    let png = draw(&example(), Format::Png).unwrap();
    let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
    let size = (2 * scene.width as u32, 2 * scene.height as u32);
    assert_eq!(picture.dimensions(), size);
    let (mut white, mut dark) = (0, 0);
    for (_, _, pixel) in picture.pixels() {
        white += usize::from(pixel.0[..3] == [255; 3]);
        dark += usize::from(pixel.0[..3] == [INK.0, INK.1, INK.2]);
    }
    assert!(white > 1_000_000 && dark > 1000, "{white} and {dark}");
    // each disc of a network is there, in its colour
    let discs = scene.shapes.iter().filter_map(|shape| match shape {
        Shape::Disc {
            centre,
            colour,
            opacity: 1.0,
            ..
        } => Some((centre, colour)),
        _ => None,
    });
    let mut seen = 0;
    for (centre, colour) in discs {
        let at = |value: f64| (2.0 * value).round() as u32;
        let pixel = picture.get_pixel(at(centre.x), at(centre.y));
        assert_eq!(pixel.0[..3], [colour.0, colour.1, colour.2]);
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn the_front_is_what_nothing_exceeds_in_both() {
    let merits = [
        (10.0, 80.0),
        (20.0, 75.0),
        (15.0, 75.0),
        (5.0, 79.0),
        (40.0, 60.0),
        (40.0, 55.0),
        (20.0, 75.0),
    ];
    assert_eq!(pareto_front(&merits), [0, 1, 4]);
    assert!(pareto_front(&[]).is_empty());
}

#[test]
fn the_format_is_the_end_of_the_name() {
    assert_eq!(Format::of(Path::new("a/b.svg")).unwrap(), Format::Svg);
    assert_eq!(Format::of(Path::new("b.png")).unwrap(), Format::Png);
    let error = Format::of(Path::new("plot.pdf")).unwrap_err().to_string();
    assert!(
        error.contains("plot.pdf") && error.contains(".svg or .png"),
        "{error}"
    );
}
