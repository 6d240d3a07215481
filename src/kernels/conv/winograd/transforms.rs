//! The one-dimensional transforms of Winograd's minimal filtering for three taps: Lavin and Gray 2016, "Fast Algorithms
//! for Convolutional Neural Networks", with the interpolation points 0, 1, -1, 2, -2 (and 1/2, -1/2) and infinity.
//!
//! Rows of opposite points share their even and odd halves.

use crate::kernels::simd::Simd;

/// `M` outputs from `T = M + 2` inputs.
pub(in crate::kernels::conv) trait Transform<const M: usize, const T: usize> {
    /// The transform of the weights, one row a point.
    const WEIGHTS: [[f64; 3]; T];

    fn input<S: Simd>(simd: S, d: [S::Vector; T]) -> [S::Vector; T];

    fn output<S: Simd>(simd: S, m: [S::Vector; T]) -> [S::Vector; M];
}

/// F(4, 3).
#[derive(Debug)]
pub(in crate::kernels::conv) struct Four;

/// F(6, 3).
#[derive(Debug)]
pub(in crate::kernels::conv) struct Six;

impl Transform<4, 6> for Four {
    const WEIGHTS: [[f64; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: [S::Vector; 6]) -> [S::Vector; 6] {
        let c = |value: f32| simd.splat(value);
        let even1 = simd.fma(d[2], c(-4.0), d[4]);
        let odd1 = simd.fma(d[1], c(-4.0), d[3]);
        let even2 = simd.sub(d[4], d[2]);
        let odd2 = simd.sub(d[3], d[1]);
        [
            simd.fma(d[0], c(4.0), simd.fma(d[2], c(-5.0), d[4])),
            simd.add(even1, odd1),
            simd.sub(even1, odd1),
            simd.fma(odd2, c(2.0), even2),
            simd.fma(odd2, c(-2.0), even2),
            simd.fma(d[1], c(4.0), simd.fma(d[3], c(-5.0), d[5])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: [S::Vector; 6]) -> [S::Vector; 4] {
        let c = |value: f32| simd.splat(value);
        let (even1, odd1) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
        let (even2, odd2) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
        [
            simd.add(simd.add(m[0], even1), even2),
            simd.fma(odd2, c(2.0), odd1),
            simd.fma(even2, c(4.0), even1),
            simd.fma(odd2, c(8.0), simd.add(odd1, m[5])),
        ]
    }
}

impl Transform<6, 8> for Six {
    const WEIGHTS: [[f64; 3]; 8] = [
        [1.0, 0.0, 0.0],
        [-2.0 / 9.0, -2.0 / 9.0, -2.0 / 9.0],
        [-2.0 / 9.0, 2.0 / 9.0, -2.0 / 9.0],
        [1.0 / 90.0, 1.0 / 45.0, 2.0 / 45.0],
        [1.0 / 90.0, -1.0 / 45.0, 2.0 / 45.0],
        [32.0 / 45.0, 16.0 / 45.0, 8.0 / 45.0],
        [32.0 / 45.0, -16.0 / 45.0, 8.0 / 45.0],
        [0.0, 0.0, 1.0],
    ];

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: [S::Vector; 8]) -> [S::Vector; 8] {
        let c = |value: f32| simd.splat(value);
        let even1 = simd.fma(d[4], c(-4.25), simd.add(d[2], d[6]));
        let odd1 = simd.fma(d[3], c(-4.25), simd.add(d[1], d[5]));
        let even2 = simd.fma(d[2], c(0.25), simd.fma(d[4], c(-1.25), d[6]));
        let odd2 = simd.fma(
            d[1],
            c(0.5),
            simd.fma(d[3], c(-2.5), simd.mul(d[5], c(2.0))),
        );
        let even3 = simd.fma(d[2], c(4.0), simd.fma(d[4], c(-5.0), d[6]));
        let odd3 = simd.fma(
            d[1],
            c(2.0),
            simd.fma(d[3], c(-2.5), simd.mul(d[5], c(0.5))),
        );
        [
            simd.fma(simd.sub(d[4], d[2]), c(5.25), simd.sub(d[0], d[6])),
            simd.add(even1, odd1),
            simd.sub(even1, odd1),
            simd.add(even2, odd2),
            simd.sub(even2, odd2),
            simd.add(even3, odd3),
            simd.sub(even3, odd3),
            simd.fma(simd.sub(d[3], d[5]), c(5.25), simd.sub(d[7], d[1])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: [S::Vector; 8]) -> [S::Vector; 6] {
        let c = |value: f32| simd.splat(value);
        let (even1, odd1) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
        let (even2, odd2) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
        let (even3, odd3) = (simd.add(m[5], m[6]), simd.sub(m[5], m[6]));
        let row = |base, a, b, double, half| simd.fma(a, c(double), simd.fma(b, c(half), base));
        [
            simd.add(simd.add(m[0], even1), simd.add(even2, even3)),
            row(odd1, odd2, odd3, 2.0, 1.0 / 2.0),
            row(even1, even2, even3, 4.0, 1.0 / 4.0),
            row(odd1, odd2, odd3, 8.0, 1.0 / 8.0),
            row(even1, even2, even3, 16.0, 1.0 / 16.0),
            row(simd.add(odd1, m[7]), odd2, odd3, 32.0, 1.0 / 32.0),
        ]
    }
}
