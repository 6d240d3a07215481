//! How activations lie in memory: channels in blocks of the vector's width, innermost.
//!
//! A tensor is `[image][block][border + height + border][border + width + border][lanes]`. The border holds zeros and is
//! as wide as the widest padding of the tensor's readers; lanes beyond the last channel hold zeros. Both are written by
//! whoever writes the tensor. A tensor may be some blocks of a larger one, which is how a concatenation costs nothing.
//!
//! A lane is a word of 32 bits, whatever it holds: one f32, or two neighbouring channels as bf16, the lower one in the
//! lower half, as the instructions for bf16 products take them (four channels as int8 would be the next). Sizes and
//! strides count words, so they are the same for all; a slice of words is a `&[f32]`, whose values mean nothing where
//! the words hold something else.

use std::ops::Range;

use super::disjoint::Disjoint;

/// What a word holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    F32,
    /// Two channels, rounded to nearest even.
    Bf16,
}

impl Element {
    /// Values of a word.
    pub fn packed(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }

    /// A word of this value and, where there is room, its neighbour.
    #[inline(always)]
    pub(super) fn word(self, value: f32, neighbour: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => f32::from_bits(round(neighbour) << 16 | round(value)),
        }
    }

    /// Value number `index` of some words.
    pub(super) fn get(self, words: &[f32], index: usize) -> f32 {
        match self {
            Self::F32 => words[index],
            Self::Bf16 => {
                let bits = words[index / 2].to_bits();
                f32::from_bits(if index.is_multiple_of(2) {
                    bits << 16
                } else {
                    bits & 0xffff_0000
                })
            }
        }
    }

    /// Sets value number `index` of some words.
    pub(super) fn put(self, words: &mut [f32], index: usize, value: f32) {
        match self {
            Self::F32 => words[index] = value,
            Self::Bf16 => {
                let (bits, shift) = (words[index / 2].to_bits(), index % 2 * 16);
                let kept = bits & !(0xffff << shift);
                words[index / 2] = f32::from_bits(kept | round(value) << shift);
            }
        }
    }
}

/// The bits of the nearest bf16, of two equally near the even one.
#[inline(always)]
fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    if value.is_nan() {
        // rounding could carry a NaN into the sign
        return bits >> 16 | 0x40;
    }
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

/// Layout of one image's activations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub element: Element,
    /// Words of a block's pixel: the vector's width, or what all channels of a narrow input image take.
    pub lanes: usize,
    /// Pixels of zeros on each side.
    pub border: usize,
    /// Blocks of others between an image's last block and the next image's first, where this tensor is a part of a
    /// larger one; its slice then begins with its own first block.
    pub gap: usize,
}

impl Layout {
    /// Channels of a block.
    pub fn per_block(&self) -> usize {
        self.lanes * self.element.packed()
    }

    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.per_block())
    }

    /// Channels rounded up to what a kernel may read of a list with one value a channel.
    pub fn listed(&self) -> usize {
        self.channels.next_multiple_of(2 * self.lanes)
    }

    /// Words of one padded row of one block.
    pub fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.lanes
    }

    /// Words of one block.
    pub fn block(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Words from one image to the next.
    pub fn image(&self) -> usize {
        (self.blocks() + self.gap) * self.block()
    }

    /// Words from the first block of the first of so many images to the last block of the last.
    pub fn extent(&self, batch: usize) -> usize {
        (batch * self.image()).saturating_sub(self.gap * self.block())
    }

    /// Where row `y` of the image itself begins in a block.
    pub fn row_start(&self, y: usize) -> usize {
        (y + self.border) * self.row() + self.border * self.lanes
    }

    /// Zeroes the border rows and columns in `rows`, the padded rows `from..` of a block.
    pub(super) fn zero_border(&self, rows: &mut [f32], from: usize) {
        if self.border == 0 {
            return;
        }
        let side = self.border * self.lanes;
        for (i, row) in rows.chunks_exact_mut(self.row()).enumerate() {
            let y = from + i;
            if y < self.border || y >= self.border + self.height {
                row.fill(0.0);
            } else {
                let right = row.len() - side;
                row[..side].fill(0.0);
                row[right..].fill(0.0);
            }
        }
    }
}

impl Layout {
    /// Zeroes the border beside `rows` of some blocks of an image, and above or below them at the image's edge.
    ///
    /// # Safety
    /// No other thread touches those blocks' padded rows meanwhile.
    pub(super) unsafe fn zero_band(
        &self,
        tensor: &Disjoint<'_>,
        image: usize,
        blocks: Range<usize>,
        rows: &Range<usize>,
    ) {
        if self.border == 0 {
            return;
        }
        let from = if rows.start == 0 {
            0
        } else {
            rows.start + self.border
        };
        let edges = 1 + usize::from(rows.end == self.height);
        let to = rows.end + edges * self.border;
        for block in blocks {
            let start = image * self.image() + block * self.block();
            // SAFETY: the caller's.
            let rows =
                unsafe { tensor.region(start + from * self.row(), (to - from) * self.row()) };
            self.zero_border(rows, from);
        }
    }
}

/// The pixels of a tensor as rows and columns of a plane that a kernel walks, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct View {
    pub(super) origin: usize,
    pub(super) image: usize,
    pub(super) block: usize,
    pub(super) row: usize,
    pub(super) pixel: usize,
}

/// Which plane of pixels a kernel walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plane {
    /// Height times width of each image.
    Image,
    /// One row of all pixels of each image; only without borders.
    Flat,
    /// One row of the images of the batch; only for images of one pixel.
    Batch,
}

impl Layout {
    pub(super) fn view(&self, plane: Plane) -> View {
        let view = View {
            origin: self.row_start(0),
            image: self.image(),
            block: self.block(),
            row: self.row(),
            pixel: self.lanes,
        };
        match plane {
            Plane::Image | Plane::Flat => view,
            Plane::Batch => View {
                image: 0,
                row: 0,
                pixel: self.image(),
                ..view
            },
        }
    }

    /// Whether every pixel of the plane is where its view says.
    pub(super) fn allows(&self, plane: Plane) -> bool {
        match plane {
            Plane::Image => true,
            Plane::Flat => self.border == 0,
            Plane::Batch => self.border == 0 && self.height == 1 && self.width == 1,
        }
    }
}
