use image::{DynamicImage, ImageFormat};
use proptest::prelude::*;

use super::*;

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encoding");
    bytes.into_inner()
}

fn decoded(bytes: &[u8]) -> RgbImage {
    decode(bytes, &Config::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn error(bytes: &[u8]) -> ImageError {
    decode(bytes, &Config::default()).expect_err("an error")
}

/// An image of one row, whose samples differ in both bytes.
macro_rules! row {
    ($variant:ident, $samples:expr, $channels:expr) => {{
        let samples = $samples.to_vec();
        let width = (samples.len() / $channels) as u32;
        let buffer = image::ImageBuffer::from_raw(width, 1, samples).expect("a row");
        DynamicImage::$variant(buffer)
    }};
}

#[test]
fn every_colour_type_of_png_becomes_rgb() {
    let cases = [
        (row!(ImageLuma8, [7, 200], 1), vec![7, 7, 7, 200, 200, 200]),
        (
            row!(ImageLumaA8, [7, 0, 200, 255], 2),
            vec![7, 7, 7, 200, 200, 200],
        ),
        (
            row!(ImageRgb8, [1, 2, 3, 4, 5, 6], 3),
            vec![1, 2, 3, 4, 5, 6],
        ),
        // transparent pixels keep their colour
        (
            row!(ImageRgba8, [1, 2, 3, 0, 4, 5, 6, 9], 4),
            vec![1, 2, 3, 4, 5, 6],
        ),
        // of 16 bits the high byte
        (
            row!(ImageLuma16, [0x07ff, 0xc801], 1),
            vec![7, 7, 7, 200, 200, 200],
        ),
        (
            row!(ImageLumaA16, [0x07ff, 0, 0xc801, 1], 2),
            vec![7, 7, 7, 200, 200, 200],
        ),
        (row!(ImageRgb16, [0x01ff, 0x0200, 0x03aa], 3), vec![1, 2, 3]),
        (
            row!(ImageRgba16, [0x01ff, 0x0200, 0x03aa, 0x8000], 4),
            vec![1, 2, 3],
        ),
    ];
    for (image, want) in cases {
        let got = decoded(&encoded(&image, ImageFormat::Png));
        assert_eq!(got.pixels, want, "{:?}", image.color());
        assert_eq!((got.width as usize, got.height), (want.len() / 3, 1));
    }
}

#[test]
fn lossless_formats_keep_every_pixel() {
    let image = row!(ImageRgb8, [0, 255, 3, 4, 128, 6, 250, 0, 77], 3);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        assert_eq!(
            decoded(&encoded(&image, format)).pixels,
            image.as_bytes(),
            "{format:?}"
        );
    }
}

#[test]
fn known_formats_that_are_not_decoded_are_named() {
    let cases: &[(&[u8], &str)] = &[
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIF"),
        (b"\xff\x0a\xff\x07", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0", "JPEG 2000"),
        (b"8BPS\0\x01", "PSD"),
        (b"\0\0\x01\0\x01\0", "ICO"),
        (b"P6\n3 2\n255\n", "PNM (PBM, PGM, PPM, PAM)"),
        (b"%PDF-1.7", "PDF"),
        (b"\xef\xbb\xbf  <?xml version='1.0'?>", "SVG"),
        (b"<svg xmlns=''>", "SVG"),
    ];
    for (bytes, name) in cases {
        match error(bytes) {
            ImageError::Unsupported { format } => assert_eq!(format, *name),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn bytes_of_no_format_are_undecodable() {
    for bytes in [
        &b""[..],
        b"hello",
        b"\xff",
        b"\xff\xd8",
        b"P6",
        b"RIFF\0\0\0\0WAVE",
        b"{\"a\":1}",
    ] {
        let text = error(bytes).to_string();
        assert!(
            text.contains("send the bytes of a JPEG, PNG, WebP, BMP or GIF file"),
            "{text}"
        );
    }
    for bytes in [
        &b"\xff\xd8\xff\xd9"[..],
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
    ] {
        assert!(matches!(error(bytes), ImageError::Undecodable(_)));
    }
}

#[test]
fn no_pixels_are_undecodable() {
    let mut gif = encoded(&row!(ImageRgba8, [1, 2, 3, 255], 4), ImageFormat::Gif);
    gif[6..8].fill(0);
    assert!(matches!(error(&gif), ImageError::Undecodable(_)));
}

#[test]
fn settings_are_checked() {
    for good in [Preprocessing::imagenet(), Preprocessing::cifar10()] {
        assert_eq!(good.validate(), Ok(()));
        for (resize, crop) in [(0, 1), (1, 0), (4097, 1), (1, 4097)] {
            let bad = Preprocessing {
                resize,
                crop,
                ..good.clone()
            };
            assert!(matches!(
                bad.validate(),
                Err(InvalidPreprocessing::Size { .. })
            ));
        }
        for std in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let bad = Preprocessing {
                std: [1.0, std, 1.0],
                ..good.clone()
            };
            assert!(matches!(bad.validate(), Err(InvalidPreprocessing::Std(_))));
        }
        let bad = Preprocessing {
            mean: [f32::NAN; 3],
            ..good
        };
        assert!(matches!(bad.validate(), Err(InvalidPreprocessing::Mean(_))));
    }
}

#[test]
fn interpolations_are_named_alike_everywhere() {
    for name in ["nearest", "bilinear", "bicubic", "lanczos"] {
        let parsed: Interpolation = name.parse().expect("a known name");
        assert_eq!(parsed.to_string(), name);
        assert_eq!(serde_json::to_value(parsed).expect("a value"), name);
    }
    let error = "cubic"
        .parse::<Interpolation>()
        .expect_err("an unknown name");
    assert!(error.to_string().contains("`cubic`"));
}

/// A picture whose pixels name their own place.
fn chart(width: u32, height: u32) -> RgbImage {
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 200]));
    RgbImage {
        width,
        height,
        pixels: pixels.collect(),
    }
}

fn settings(resize: u32, crop: u32) -> Preprocessing {
    Preprocessing {
        resize,
        crop,
        ..Preprocessing::imagenet()
    }
}

/// torchvision: `int(round((size - crop) / 2.0))`, where Python rounds a half to the even neighbour.
#[test]
fn the_crop_rounds_its_offset_to_even() {
    for (width, left) in [
        (32, 0),
        (33, 0),
        (34, 1),
        (35, 2),
        (36, 2),
        (37, 2),
        (39, 4),
    ] {
        let cropped = settings(32, 32)
            .resize_and_crop(&chart(width, 32))
            .expect("a crop");
        assert_eq!(cropped.pixels[0], left, "width {width}");
    }
}

/// torchvision pads `(crop - size) // 2` before and `(crop - size + 1) // 2` after.
#[test]
fn a_crop_larger_than_the_image_is_padded_with_black() {
    let cropped = settings(4, 9)
        .resize_and_crop(&chart(4, 6))
        .expect("a crop");
    let at = |x: usize, y: usize| &cropped.pixels[3 * (9 * y + x)..][..3];
    for y in 0..9 {
        for x in 0..9 {
            let inside = (2..6).contains(&x) && (1..7).contains(&y);
            let want = if inside {
                [x as u8 - 2, y as u8 - 1, 200]
            } else {
                [0; 3]
            };
            assert_eq!(at(x, y), want, "{x}, {y}");
        }
    }
}

/// Resized whole, these would be 256 x 2,560,000 and 12,800,000,000 x 256 pixels.
#[test]
fn extreme_proportions_cost_no_more_than_their_crop() {
    for (width, height) in [(1, 10_000), (50_000_000, 1)] {
        let image = RgbImage {
            width,
            height,
            pixels: vec![77; 3 * width as usize * height as usize],
        };
        for interpolation in ["nearest", "bilinear", "bicubic", "lanczos"] {
            let settings = Preprocessing {
                interpolation: interpolation.parse().expect("a known name"),
                ..Preprocessing::imagenet()
            };
            let cropped = settings.resize_and_crop(&image).expect("a crop");
            assert_eq!(cropped.pixels.len(), 3 * 224 * 224);
            assert!(
                cropped.pixels.iter().all(|&level| level == 77),
                "{interpolation}"
            );
        }
    }
}

#[test]
fn sizes_that_fit_nothing_are_refused() {
    for (width, height, bytes) in [(2, 2, 11), (2, 2, 13), (0, 2, 0), (u32::MAX, u32::MAX, 3)] {
        let image = RgbImage {
            width,
            height,
            pixels: vec![0; bytes],
        };
        let error = Preprocessing::imagenet()
            .apply(&image)
            .expect_err("an error");
        assert!(matches!(error, ImageError::Undecodable(_)));
    }
    for (resize, crop) in [(0, 1), (1, 0), (u32::MAX, u32::MAX)] {
        let error = settings(resize, crop).apply(&chart(2, 2));
        assert!(matches!(error, Err(ImageError::Undecodable(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Any size yields a full crop; a filter's weights sum to one, so that a flat image stays flat inside its frame.
    #[test]
    fn a_flat_image_stays_flat(
        width in 1u32..200, height in 1u32..200, resize in 1u32..80, crop in 1u32..80,
        filter in 0usize..4, level in 1u8..,
    ) {
        let names = ["nearest", "bilinear", "bicubic", "lanczos"];
        let settings = Preprocessing {
            interpolation: names[filter].parse().expect("a known name"),
            ..settings(resize, crop)
        };
        let pixels = vec![level; 3 * (width * height) as usize];
        let cropped = settings.resize_and_crop(&RgbImage { width, height, pixels }).expect("a crop");
        prop_assert_eq!((cropped.width, cropped.height), (crop, crop));

        let longer = resize * width.max(height) / width.min(height);
        let (wide, high) = if width <= height { (resize, longer) } else { (longer, resize) };
        let inside = 3 * wide.min(crop) * high.min(crop);
        let flat = cropped.pixels.iter().filter(|&&got| got == level).count();
        let black = cropped.pixels.iter().filter(|&&got| got == 0).count();
        prop_assert_eq!((flat, black), (inside as usize, cropped.pixels.len() - inside as usize));
    }
}
