//! Small images of every kind against what PIL reads from them, and damaged ones: an error each, never a panic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use resnetd::imaging::{Config, ImageError, RgbImage, decode};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/imaging")
}

/// Every encoded image of the folder by name.
fn images() -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder()).expect("the folder of small images");
    entries
        .map(|entry| entry.expect("a folder entry").file_name())
        .map(|name| name.into_string().expect("an ASCII name"))
        .filter(|name| !name.ends_with(".expected.png") && !name.ends_with(".md"))
        .map(|name| {
            let bytes = read(&name);
            (name, bytes)
        })
        .collect()
}

/// Read once for the many cases of a property.
static IMAGES: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(images);

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn decoded(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    decode(bytes, &Config::default())
}

#[test]
fn every_kind_of_image_is_what_pil_reads() {
    let images = images();
    assert_eq!(images.len(), 39);
    for (name, bytes) in images {
        let got = decoded(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let want = decoded(&read(&format!("{name}.expected.png"))).expect("an expected image");
        assert_eq!((got.width, got.height), (want.width, want.height), "{name}");
        if name.ends_with(".jpg") || name.starts_with("lossy") {
            let differences = got.pixels.iter().zip(&want.pixels);
            let sum: u64 = differences.map(|(g, w)| u64::from(g.abs_diff(*w))).sum();
            let mean = sum as f64 / got.pixels.len() as f64;
            assert!(mean <= 0.8, "{name}: mean absolute difference {mean}");
        } else {
            assert!(got.pixels == want.pixels, "{name} differs");
        }
    }
}

#[test]
fn a_jpeg_cut_off_anywhere_is_an_error() {
    let images = images();
    let jpegs = images
        .iter()
        .filter(|(name, _)| name.ends_with(".jpg") && *name != "junk_after_end.jpg");
    let mut cuts = 0;
    for (name, bytes) in jpegs {
        for kept in 2..bytes.len() {
            match decoded(&bytes[..kept]) {
                Err(ImageError::Undecodable(_)) => cuts += 1,
                other => panic!("{name} of {kept} bytes: {other:?}"),
            }
        }
    }
    assert!(cuts > 10_000, "{cuts}");
}

#[test]
fn other_formats_cut_in_half_are_errors() {
    for name in [
        "grey_alpha.png",
        "transparent_interlaced.gif",
        "rgba.bmp",
        "exif_6.webp",
        "lossy_alpha.webp",
    ] {
        let bytes = read(name);
        let error = decoded(&bytes[..bytes.len() / 2]).expect_err(name);
        assert!(
            matches!(error, ImageError::Undecodable(_)),
            "{name}: {error}"
        );
    }
}

#[test]
fn more_pixels_than_allowed_are_refused_from_the_header() {
    for (name, mut bytes) in images() {
        let config = Config {
            max_image_pixels: 45 * 30 - 1,
        };
        // the header alone suffices where it comes first; the rest need not even be readable
        if name == "ycbcr_420.jpg" || name == "grey_alpha.png" || name == "palette.bmp" {
            bytes.truncate(bytes.len() - 20);
        }
        match decode(&bytes, &config) {
            Err(ImageError::TooLarge { pixels, limit, .. }) => {
                assert_eq!((pixels, limit), (45 * 30, 45 * 30 - 1), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        let exactly = Config {
            max_image_pixels: 45 * 30,
        };
        assert!(
            !matches!(decode(&bytes, &exactly), Err(ImageError::TooLarge { .. })),
            "{name}"
        );
    }
}

/// 65,500 x 65,500 pixels in a few bytes: refused without the 12 GB.
#[test]
fn a_header_that_promises_too_much_is_refused_before_allocating() {
    let mut bytes = read("ycbcr_420.jpg");
    let frame = bytes
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .expect("a frame header");
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let error = decoded(&bytes).expect_err("too large");
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                width: 65500,
                height: 65500,
                ..
            }
        ),
        "{error}"
    );
}

/// The canvas stays 45 x 30; only the frame inside it claims more.
#[test]
fn a_webp_frame_larger_than_allowed_is_refused() {
    let mut bytes = read("lossy_alpha.webp");
    let chunk = bytes
        .windows(4)
        .position(|name| name == b"VP8 ")
        .expect("a lossy frame");
    bytes[chunk + 14..chunk + 18].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    let error = decoded(&bytes).expect_err("too large");
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                width: 16383,
                height: 16383,
                ..
            }
        ),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(decoded(&bytes).is_err());
    }

    /// Each case damages every image, so that 256 cases are some 10,000 files.
    #[test]
    fn damaged_images_are_images_or_errors(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let config = Config { max_image_pixels: 1_000_000 };
        for mut bytes in IMAGES.values().cloned() {
            for (at, value) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(image) = decode(&bytes, &config) {
                let pixels = u64::from(image.width) * u64::from(image.height);
                prop_assert!((1..=config.max_image_pixels).contains(&pixels));
                prop_assert_eq!(image.pixels.len() as u64, 3 * pixels);
            }
        }
    }
}
