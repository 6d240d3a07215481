//! How activations lie in memory: channels in blocks of the vector's width, innermost.
//!
//! A tensor is `[image][block][border + height + border][border + width + border][lanes]`. The border holds zeros and is
//! as wide as the widest padding of the tensor's readers; lanes beyond the last channel hold zeros. Both are written by
//! whoever writes the tensor.

/// Layout of one image's activations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Channels of a block: the vector's width, or all channels of a narrow input image.
    pub lanes: usize,
    /// Pixels of zeros on each side.
    pub border: usize,
}

impl Layout {
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// Values of one padded row of one block.
    pub fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.lanes
    }

    /// Values of one block.
    pub fn block(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Values of one image.
    pub fn image(&self) -> usize {
        self.blocks() * self.block()
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

/// The pixels of a tensor as rows and columns of a plane that a kernel walks, in values.
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
