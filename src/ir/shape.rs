//! Shapes of one image's activations, and the output size of windowed operations.

use std::fmt;

/// `[channels, height, width]` of one image's activations; the batch dimension is never part of a graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
        }
    }

    /// Number of values in one image's activations.
    pub const fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Output length of a window of `kernel` moved by `stride` over `input` values with `padding` on both sides.
///
/// With `ceil`, a last partial window counts if it starts inside the input or its left padding
/// (PyTorch's `ceil_mode`). Zero where the kernel does not fit.
pub fn windows(input: usize, kernel: usize, stride: usize, padding: usize, ceil: bool) -> usize {
    let span = input + 2 * padding;
    if span < kernel {
        return 0;
    }
    let whole = (span - kernel) / stride + 1;
    let partial =
        ceil && !(span - kernel).is_multiple_of(stride) && whole * stride < input + padding;
    whole + usize::from(partial)
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn windows_as_pytorch_counts_them() {
        assert_eq!(windows(224, 7, 2, 3, false), 112);
        assert_eq!(windows(112, 3, 2, 1, false), 56);
        // GoogLeNet: 3x3/2 ceil-mode pools take 112 to 56 and 7 from 14 without padding
        assert_eq!(windows(112, 3, 2, 0, true), 56);
        assert_eq!(windows(112, 3, 2, 0, false), 55);
        // the partial window may not start in the right padding: torch gives 3 here, not 4
        assert_eq!(windows(5, 2, 2, 1, true), 3);
        assert_eq!(windows(2, 3, 1, 0, false), 0);
    }
}
