//! How a direct convolution is cut into tasks: a task is a band of lines of tiles of one image, for a group of output
//! units.
//!
//! Both ends of the cut are sized for the second-level cache. Where all weights stay in it, tasks go through a band's
//! groups before the next band, so that the band's input is read once from afar; where they do not, through all bands
//! before the next group, so that the weights are. Threads take tasks in runs ([`claim`](crate::kernels::disjoint)), so
//! neighbours in this order mostly share a core.

use std::ops::Range;

use super::tile::TileShape;
use crate::kernels::disjoint::{TASKS, even};

/// Words that a task's weights, or its input, may take of the second-level cache.
const SHARE: usize = 128 << 10;

/// What a cut depends on.
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) images: usize,
    /// Pixels of the widest tile.
    pub(super) widest: usize,
    pub(super) units: usize,
    /// Whether the only row may be cut: nothing but its pixels is written with it.
    pub(super) flat: bool,
    /// Words of one unit's weights.
    pub(super) unit_weights: usize,
    /// Words that one row of output reads, counted once.
    pub(super) line_input: usize,
    pub(super) threads: usize,
}

/// The tasks of one call.
pub(super) struct Grid {
    rows: usize,
    width: usize,
    images: usize,
    units: usize,
    /// Tiles of a row, as even as can be.
    tiles: usize,
    /// Rows of a tile.
    tile_rows: usize,
    /// Whether a line is one tile of the only row, and not all tiles of some rows.
    flat: bool,
    lines: usize,
    /// Lines and units of a task.
    band: usize,
    group: usize,
    group_first: bool,
}

/// One task.
pub(super) struct Part {
    pub(super) image: usize,
    pub(super) lines: Range<usize>,
    pub(super) units: Range<usize>,
}

/// One tile; its number of vectors is the unit's.
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) pixel: usize,
    pub(super) shape: TileShape,
}

impl Grid {
    pub(super) fn new(shape: Shape) -> Self {
        let Shape {
            rows,
            width,
            images,
            units,
            flat,
            ..
        } = shape;
        let tiles = width.div_ceil(shape.widest);
        let tile_rows = if rows > 1 && 2 * width <= shape.widest {
            2
        } else {
            1
        };
        let lines = if flat {
            tiles
        } else {
            rows.div_ceil(tile_rows)
        };
        let line_input = if flat {
            shape.line_input / tiles
        } else {
            shape.line_input * tile_rows
        };
        let whole = shape.unit_weights * units <= 2 * SHARE;
        let mut grid = Self {
            rows,
            width,
            images,
            units,
            tiles,
            tile_rows,
            flat,
            lines,
            band: (SHARE / line_input.max(1)).clamp(1, lines),
            group: (SHARE / shape.unit_weights.max(1)).clamp(1, units),
            group_first: !whole,
        };
        // bands share weights and groups share input: cut where less is read twice
        let wanted = TASKS * shape.threads;
        while grid.tasks() < wanted && (grid.group > 1 || grid.band > 1) {
            let cut_units = shape.unit_weights * units > shape.line_input * rows;
            if grid.band == 1 || (cut_units && grid.group > 1) {
                grid.group = grid.group.div_ceil(2);
            } else {
                grid.band = grid.band.div_ceil(2);
            }
        }
        grid
    }

    fn bands(&self) -> usize {
        self.lines.div_ceil(self.band)
    }

    fn groups(&self) -> usize {
        self.units.div_ceil(self.group)
    }

    pub(super) fn tasks(&self) -> usize {
        self.groups() * self.images * self.bands()
    }

    pub(super) fn part(&self, task: usize) -> Part {
        let (bands, groups) = (self.bands(), self.groups());
        let (band, group) = if self.group_first {
            (task % (self.images * bands), task / (self.images * bands))
        } else {
            (task / groups, task % groups)
        };
        Part {
            image: band / bands,
            lines: even(self.lines, bands, band % bands),
            units: even(self.units, groups, group),
        }
    }

    /// Output rows of some lines.
    pub(super) fn rows(&self, lines: &Range<usize>) -> Range<usize> {
        lines.start * self.tile_rows..(lines.end * self.tile_rows).min(self.rows)
    }

    /// Pixels of some lines, where a line is a tile.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn pixels(&self, lines: &Range<usize>) -> Range<usize> {
        even(self.width, self.tiles, lines.start).start
            ..even(self.width, self.tiles, lines.end - 1).end
    }

    /// The tiles of some lines.
    pub(super) fn tiles(&self, lines: &Range<usize>) -> impl Iterator<Item = Place> {
        let of_line = if self.flat { 1 } else { self.tiles };
        (lines.start * of_line..lines.end * of_line).map(|i| {
            let (row, column) = (i / self.tiles * self.tile_rows, i % self.tiles);
            let pixels = even(self.width, self.tiles, column);
            Place {
                row,
                pixel: pixels.start,
                shape: TileShape {
                    rows: self.tile_rows.min(self.rows - row),
                    pixels: pixels.len(),
                    vectors: 1,
                },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pixel of every image is in exactly one task for each unit.
    #[test]
    fn tasks_cover_everything_once() {
        let mut shapes = 0;
        for (rows, width, flat) in [
            (1, 1, true),
            (1, 49, true),
            (1, 9, false),
            (7, 7, false),
            (56, 56, false),
            (13, 30, false),
        ] {
            for images in [1, 2, 5] {
                for units in [1, 3, 32] {
                    for (unit_weights, line_input) in
                        [(512, 64), (1 << 20, 1 << 10), (1 << 12, 1 << 18)]
                    {
                        for threads in [1, 2, 16] {
                            let shape = Shape {
                                rows,
                                width,
                                images,
                                widest: 14,
                                units,
                                flat,
                                unit_weights,
                                line_input,
                                threads,
                            };
                            covers(shape);
                            shapes += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(shapes, 6 * 3 * 3 * 3 * 3);
    }

    fn covers(shape: Shape) {
        let Shape {
            rows,
            width,
            images,
            units,
            ..
        } = shape;
        let grid = Grid::new(shape);
        let mut seen = vec![0; images * units * rows * width];
        for task in 0..grid.tasks() {
            let part = grid.part(task);
            assert!(!part.lines.is_empty() && !part.units.is_empty());
            for unit in part.units.clone() {
                for place in grid.tiles(&part.lines) {
                    assert!(place.shape.rows * place.shape.pixels <= 14);
                    for row in place.row..place.row + place.shape.rows {
                        for pixel in place.pixel..place.pixel + place.shape.pixels {
                            seen[((part.image * units + unit) * rows + row) * width + pixel] += 1;
                        }
                    }
                }
            }
        }
        assert!(seen.iter().all(|count| *count == 1));
    }
}
