//! The tables of the kernels beside convolutions: maps, pools, planes, concats and flattens, each with what it should
//! give.

use super::*;

pub(in crate::kernels::tests) fn maps(token: Token) -> usize {
    let lanes = token.lanes();
    let mut count = 0;
    for (channels, extra) in [(1, 0), (lanes, 0), (lanes + 1, 3), (2 * lanes, 2 * lanes)] {
        for (height, width) in [(1, 1), (4, 3), (3, 5), (5, 9)] {
            for stride in [1, 2, 3] {
                for index in 0..EPILOGUES {
                    map(token, (channels, extra), (height, width), stride, index);
                    count += 1;
                }
            }
        }
    }
    count
}

fn map(
    token: Token,
    (channels, extra): (usize, usize),
    (height, width): (usize, usize),
    stride: usize,
    index: usize,
) {
    let batch = 2;
    let input = Layout {
        channels,
        height,
        width,
        element: token.element(),
        lanes: token.lanes(),
        border: index % 2,
        gap: index / 2 % 3,
    };
    let output = Layout {
        channels: channels + extra,
        height: height.div_ceil(stride),
        width: width.div_ceil(stride),
        border: index % 3,
        gap: index / 3 % 2,
        ..input
    };
    let planes = held(token, 3, batch * sized(&input).len());
    let (epilogue, added) = epilogues(token, &output, batch).swap_remove(index);
    let mut expected = Vec::new();
    for image in 0..batch {
        for channel in 0..output.channels {
            for y in 0..output.height {
                for x in 0..output.width {
                    let at =
                        ((image * channels + channel) * height + y * stride) * width + x * stride;
                    expected.push(if channel < channels { planes[at] } else { 0.0 });
                }
            }
        }
    }
    reference::epilogue(
        epilogue.operations(),
        batch,
        sized(&output),
        &mut expected,
        &added,
    );
    let added = lay_out_added(&epilogue, batch, &added);
    let added: Vec<&[f32]> = added.iter().map(|a| &a[..]).collect();
    let map = Map::new(token, input, output, stride, epilogue).expect("a map that fits");
    let mut found = Guarded::new(output.extent(batch));
    map.run(
        &Serial,
        batch,
        &laid_out(&input, batch, &planes),
        &added,
        &mut found,
    );
    let expected = laid_out(&Layout { gap: 0, ..output }, batch, &expected);
    let found = own(&output, &found);
    assert_close(output.element, &found, &expected, 1e-6, &map);
}

pub(in crate::kernels::tests) fn pools(token: Token) -> usize {
    let mut count = 0;
    for (kernel, stride, padding) in [
        (1, 1, 0),
        (2, 2, 0),
        (3, 2, 1),
        (3, 1, 1),
        (3, 3, 1),
        (5, 3, 2),
    ] {
        for (height, width) in [(5, 5), (6, 9), (7, 13)] {
            let windows = |size: usize, counts| {
                let n = (size + 2 * padding - kernel) / stride + 1;
                // a last partial window where one would start inside the image
                let partial = usize::from(n * stride < size + padding);
                Window::sliding(size, n + partial, (kernel, stride, padding), counts)
            };
            for (reduce, counts) in [
                (Reduce::Max, false),
                (Reduce::Average, false),
                (Reduce::Average, true),
            ] {
                let (rows, columns) = (windows(height, counts), windows(width, counts));
                pool(
                    token,
                    (height, width),
                    PoolSpec {
                        reduce,
                        rows,
                        columns,
                    },
                );
                count += 1;
            }
        }
    }
    for (height, width, rows, columns) in [(7, 7, 1, 1), (9, 11, 4, 3), (1, 1, 1, 1), (5, 6, 6, 7)]
    {
        let spec = PoolSpec {
            reduce: Reduce::Average,
            rows: Window::adaptive(height, rows),
            columns: Window::adaptive(width, columns),
        };
        pool(token, (height, width), spec);
        count += 1;
    }
    count
}

fn pool(token: Token, (height, width): (usize, usize), spec: PoolSpec) {
    let batch = 2;
    for channels in [1, token.lanes(), token.lanes() + 1] {
        let input = Layout {
            channels,
            height,
            width,
            element: token.element(),
            lanes: token.lanes(),
            border: channels % 3,
            gap: height % 2,
        };
        let output = Layout {
            height: spec.rows.len(),
            width: spec.columns.len(),
            border: height % 2,
            gap: width % 3,
            ..input
        };
        let planes = held(token, 4, batch * sized(&input).len());
        let expected = reference::pool(&spec, batch, sized(&input), &planes);
        let pool = Pool::new(token, spec.clone(), input, output).expect("a pool that fits");
        let mut found = Guarded::new(output.extent(batch));
        pool.run(
            &Serial,
            batch,
            &laid_out(&input, batch, &planes),
            &mut found,
        );
        let expected = laid_out(&Layout { gap: 0, ..output }, batch, &expected);
        let found = own(&output, &found);
        let element = output.element;
        assert_close(element, &found, &expected, 1e-6, &pool);
    }
}

/// There and back, and the place of every value there.
pub(in crate::kernels::tests) fn planes(token: Token) -> usize {
    let mut count = 0;
    for channels in [1, 3, token.lanes(), 2 * token.lanes() + 1] {
        let element = token.element();
        for lanes in [token.lanes(), channels.div_ceil(element.packed())] {
            for border in [0, 2] {
                let layout = Layout {
                    channels,
                    height: 3,
                    width: 4,
                    element,
                    lanes,
                    border,
                    gap: 0,
                };
                let planes = held(token, 5, 2 * sized(&layout).len());
                let laid = laid_out(&layout, 2, &planes);
                let held = unpacked(element, &laid);
                assert_eq!(held.filter(|v| *v != 0.0).count(), planes.len());
                let (channel, y, x) = (channels - 1, 2, 1);
                let pixel =
                    channel / layout.per_block() * layout.block() + layout.row_start(y) + x * lanes;
                let words = &laid[layout.image() + pixel..][..lanes];
                assert_eq!(
                    element.get(words, channel % layout.per_block()),
                    planes[((channels + channel) * 3 + y) * 4 + x]
                );
                let stride = sized(&layout).len() + 3;
                let mut back = Guarded::new(2 * stride);
                to_planes(&Serial, &layout, 2, &laid, stride, &mut back);
                for (image, values) in back.chunks(stride).enumerate() {
                    assert_eq!(
                        values[..stride - 3],
                        planes[image * (stride - 3)..][..stride - 3]
                    );
                    assert_eq!(values[stride - 3..], [0.0; 3]);
                }
                count += 1;
            }
        }
    }
    count
}

pub(in crate::kernels::tests) fn concats(token: Token) -> usize {
    let lanes = token.lanes();
    let mut count = 0;
    for channels in [
        vec![1],
        vec![lanes, lanes],
        vec![3, 5],
        vec![3, 5, 2 * lanes],
        vec![2 * lanes, 6, 2 * lanes, 2 * lanes - 6, 4 * lanes],
        vec![lanes - 1, lanes + 2, 1],
        vec![2 * lanes, 7, lanes],
        vec![lanes / 2, lanes / 2, 3 * lanes],
    ] {
        let layout = |channels, border| Layout {
            channels,
            height: 3,
            width: 2,
            element: token.element(),
            lanes,
            border,
            gap: border,
        };
        let output = Layout {
            gap: 0,
            ..layout(channels.iter().sum(), 1)
        };
        let batch = 2;
        let parts: Vec<(Layout, Vec<f32>)> = channels
            .iter()
            .enumerate()
            .map(|(i, &c)| (layout(c, i % 2), held(token, i as u64, batch * c * 6)))
            .collect();
        let mut expected = Vec::new();
        for image in 0..batch {
            for (layout, planes) in &parts {
                let len = layout.channels * 6;
                expected.extend_from_slice(&planes[image * len..(image + 1) * len]);
            }
        }
        let laid: Vec<(Layout, Guarded)> = parts
            .iter()
            .map(|(l, p)| (*l, laid_out(l, batch, p)))
            .collect();
        let mut found = Guarded::new(batch * output.image());
        let mut inputs = Vec::new();
        let mut first = 0;
        for (index, (layout, data)) in laid.iter().enumerate() {
            let is_whole = |n: usize| n.is_multiple_of(output.per_block());
            // some are there already, as their own kernels have written them
            if index % 2 == 0 && is_whole(first) {
                let place = Layout {
                    border: output.border,
                    ..*layout
                };
                let there = laid_out(&place, batch, &parts[index].1);
                for (image, blocks) in there.chunks_exact(place.image()).enumerate() {
                    let to = image * output.image() + first / output.per_block() * output.block();
                    found[to..to + blocks.len()].copy_from_slice(blocks);
                }
            } else {
                inputs.push(Part {
                    first,
                    layout: *layout,
                    data,
                });
            }
            first += layout.channels;
        }
        concat(&Serial, batch, &inputs, &output, &mut found);
        let bits = |words: &[f32]| words.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(&found),
            bits(&laid_out(&output, batch, &expected)),
            "{channels:?}"
        );
        count += 1;
    }
    count
}

/// Every value of an image becomes a channel of one pixel.
pub(in crate::kernels::tests) fn flattens(token: Token) -> usize {
    let mut count = 0;
    for channels in [1, 3, token.lanes(), 2 * token.lanes() + 1] {
        for (height, width, border) in [(1, 1, 0), (2, 3, 1), (7, 7, 0)] {
            let from = Layout {
                channels,
                height,
                width,
                element: token.element(),
                lanes: token.lanes(),
                border,
                gap: 0,
            };
            let to = Layout {
                channels: channels * height * width,
                height: 1,
                width: 1,
                border: 0,
                ..from
            };
            let planes = held(token, 6, 2 * sized(&from).len());
            let mut found = Guarded::new(2 * to.image());
            let input = laid_out(&from, 2, &planes);
            flatten(&Serial, &from, 2, &input, &to, &mut found);
            let expected = laid_out(&to, 2, &planes);
            assert_close(to.element, &found, &expected, 0.0, &from);
            count += 1;
        }
    }
    count
}
