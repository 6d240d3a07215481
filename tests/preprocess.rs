//! Every golden image, decoded, resized and cropped, against what PIL and torchvision made of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use resnetd::imaging::{Config, Interpolation, Preprocessing, RgbImage, decode};
use serde::Deserialize;

/// One entry of cases.json, under the name of the expected image.
#[derive(Deserialize)]
struct Case {
    input: String,
    /// Width and height of the decoded image, orientation applied.
    upright: [u32; 2],
    resize: u32,
    crop: u32,
    interpolation: Interpolation,
}

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/preprocess")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decoded(name: &str) -> RgbImage {
    decode(&data(name), &Config::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// JPEG and lossy WebP leave rounding and chroma upsampling to the decoder.
fn is_lossy(input: &str) -> bool {
    input.ends_with(".jpg") || input == "cat_lossy.webp"
}

#[test]
fn every_golden_image_is_what_torchvision_makes_of_it() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&data("cases.json")).expect("cases.json");
    assert_eq!(cases.len(), 30);
    assert_eq!(
        cases.values().filter(|case| is_lossy(&case.input)).count(),
        16
    );

    for (name, case) in cases {
        let image = decoded(&case.input);
        assert_eq!([image.width, image.height], case.upright, "{name}");
        let preprocessing = Preprocessing {
            resize: case.resize,
            crop: case.crop,
            interpolation: case.interpolation,
            ..Preprocessing::imagenet()
        };
        let got = preprocessing.resize_and_crop(&image).expect(&name);
        let want = decoded(&name);
        assert_eq!((got.width, got.height), (want.width, want.height), "{name}");

        let differences = || {
            got.pixels
                .iter()
                .zip(&want.pixels)
                .map(|(g, w)| g.abs_diff(*w))
        };
        let worst = differences().max().expect("pixels");
        let mean = differences().map(f64::from).sum::<f64>() / got.pixels.len() as f64;
        if is_lossy(&case.input) {
            assert!(mean <= 0.8, "{name}: mean absolute difference {mean}");
        } else {
            assert!(worst <= 1, "{name}: differs by {worst} levels");
        }
    }
}

#[test]
fn normalised_input_is_planar_and_scaled_as_torchvision_does() {
    let image = decoded("exact256.png");
    let preprocessing = Preprocessing::imagenet();
    let cropped = preprocessing.resize_and_crop(&image).expect("crop");
    let input = preprocessing.apply(&image).expect("input");
    assert_eq!(input.len(), 3 * 224 * 224);
    for (i, pixel) in cropped.pixels.chunks_exact(3).enumerate() {
        for channel in 0..3 {
            let want = (f32::from(pixel[channel]) / 255.0 - preprocessing.mean[channel])
                / preprocessing.std[channel];
            assert_eq!(input[channel * 224 * 224 + i], want);
        }
    }
}

/// Size, `resize` and `crop`, filter, hash of the result.
type NoiseCase = ((u32, u32), (u32, u32), &'static str, u64);

/// Size of an image of noise, `resize` and `crop`, the filter, and FNV-1a (64 bits) of what torchvision 0.29 on Pillow 13
/// makes of it. Noise overshoots and is cut off wherever a cubic or a sinc can be, so that only the same arithmetic in
/// the same order gives the same bytes.
#[rustfmt::skip]
const NOISE: &[NoiseCase] = &[
    ((32, 33), (32, 32), "nearest", 0xeb8bc0815e5ff795),
    ((32, 33), (32, 32), "bilinear", 0xeb8bc0815e5ff795),
    ((32, 33), (32, 32), "bicubic", 0xeb8bc0815e5ff795),
    ((32, 33), (32, 32), "lanczos", 0xeb8bc0815e5ff795),
    ((33, 47), (32, 32), "nearest", 0x8f241d9accd29499),
    ((33, 47), (32, 32), "bilinear", 0x74bbe5b2bad9533d),
    ((33, 47), (32, 32), "bicubic", 0x73412e46e8c4b8cc),
    ((33, 47), (32, 32), "lanczos", 0xf2030728ba02347e),
    ((100, 61), (40, 32), "nearest", 0x4979353c4a6a2191),
    ((100, 61), (40, 32), "bilinear", 0x0011968f97d3d348),
    ((100, 61), (40, 32), "bicubic", 0xede2ae5ae232e8ec),
    ((100, 61), (40, 32), "lanczos", 0xc46e6b9339a6049d),
    ((61, 100), (40, 37), "nearest", 0x42cea8a92eeb988d),
    ((61, 100), (40, 37), "bilinear", 0xf527bc166a5a97c4),
    ((61, 100), (40, 37), "bicubic", 0xcc3750f0cb2ca4ef),
    ((61, 100), (40, 37), "lanczos", 0xf3ed9fc1bbc6ee8b),
    ((7, 3), (20, 16), "nearest", 0xfa1c80e215585afd),
    ((7, 3), (20, 16), "bilinear", 0xc62bcd671a43d43c),
    ((7, 3), (20, 16), "bicubic", 0x85d52fcbb9c70fb6),
    ((7, 3), (20, 16), "lanczos", 0x138d249b1c9e611b),
    ((100, 230), (32, 32), "nearest", 0x5d55a9b100243815),
    ((100, 230), (32, 32), "bilinear", 0x2c1181d7e8599073),
    ((100, 230), (32, 32), "bicubic", 0x2185a8f71147a3c0),
    ((100, 230), (32, 32), "lanczos", 0xf5d28f9c4d0c5dbb),
    ((1, 30), (16, 16), "nearest", 0x6667e875121b1625),
    ((1, 30), (16, 16), "bilinear", 0x12b811cd5ed952c5),
    ((1, 30), (16, 16), "bicubic", 0xa736416959aeb815),
    ((1, 30), (16, 16), "lanczos", 0x4d10a01ea541bde5),
    ((30, 1), (16, 24), "nearest", 0x929053e866f03125),
    ((30, 1), (16, 24), "bilinear", 0xd5f9b4779ebdece5),
    ((30, 1), (16, 24), "bicubic", 0x235a1b15e54a6825),
    ((30, 1), (16, 24), "lanczos", 0x072c9783e1c1b3c5),
    ((64, 65), (24, 40), "nearest", 0xbd0acbc9a5ada567),
    ((64, 65), (24, 40), "bilinear", 0x65168cf429918120),
    ((64, 65), (24, 40), "bicubic", 0xa4dbade9096b45c3),
    ((64, 65), (24, 40), "lanczos", 0x31bcd88652d9799a),
];

fn noise(width: u32, height: u32) -> RgbImage {
    let bytes = 3 * width as usize * height as usize;
    let mut state = 1u64;
    let step = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    RgbImage {
        width,
        height,
        pixels: std::iter::repeat_with(step).take(bytes).collect(),
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn every_filter_is_pillows_to_the_bit() {
    for &((width, height), (resize, crop), filter, want) in NOISE {
        let preprocessing = Preprocessing {
            resize,
            crop,
            interpolation: filter.parse().expect("a filter"),
            ..Preprocessing::imagenet()
        };
        let got = preprocessing
            .resize_and_crop(&noise(width, height))
            .expect("an image");
        let got = fnv1a(&got.pixels);
        assert_eq!(
            got, want,
            "{width}x{height} to {resize}, {crop} with {filter}"
        );
    }
}
