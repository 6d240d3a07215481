//! Images as they wait for their batch, and how a batch of them becomes an engine's input.
//!
//! They wait as 8-bit pixels, a quarter of the bytes of what the network reads, and are normalised where the engine
//! reads them: `torchvision.transforms.Normalize` of a level is one of 256 values a channel, so a table is exact.

use super::EngineError;

/// One image as it waits for its batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// `[h, w, 3]`: 8-bit RGB as cropped, not yet normalised.
    Pixels(Vec<u8>),
    /// `[c, h, w]`: the network's input as its caller made it.
    Tensor(Vec<f32>),
}

/// What each 8-bit level of each channel becomes, `[3][256]`: `(level / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization([[f32; 256]; 3]);

impl Image {
    /// Number of values, which is that of the network's input in either form.
    pub fn elements(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.len(),
            Self::Tensor(values) => values.len(),
        }
    }
}

impl Normalization {
    /// Per channel, RGB.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self(std::array::from_fn(|channel| {
            let (mean, std) = (mean[channel], std[channel]);
            std::array::from_fn(|level| (level as f32 / 255.0 - mean) / std)
        }))
    }

    /// `[3][256]`, for a device that looks the levels up itself.
    pub fn table(&self) -> &[[f32; 256]; 3] {
        &self.0
    }

    /// Normalises `[h, w, 3]` pixels into `[3, h, w]`.
    ///
    /// # Errors
    /// When the pixels are not three values each, or `planes` has another length than they.
    pub fn write(&self, pixels: &[u8], planes: &mut [f32]) -> Result<(), EngineError> {
        let (triples, _) = pixels.as_chunks::<3>();
        check("an image of 8-bit RGB", 3 * triples.len(), pixels.len())?;
        check("the input of an image", pixels.len(), planes.len())?;
        let (red, others) = planes.split_at_mut(triples.len());
        let (green, blue) = others.split_at_mut(triples.len());
        let [reds, greens, blues] = &self.0;
        let planes = red.iter_mut().zip(green).zip(blue);
        for (&[r, g, b], ((red, green), blue)) in triples.iter().zip(planes) {
            *red = reds[usize::from(r)];
            *green = greens[usize::from(g)];
            *blue = blues[usize::from(b)];
        }
        Ok(())
    }
}

/// Lays images of one length side by side as `[batch, c, h, w]`, pixels normalised. `input` is kept from batch to batch
/// and holds the batch alone afterwards.
///
/// # Errors
/// When the images differ in length, or pixels are not three values each.
pub fn gather(
    images: &[&Image],
    normalization: &Normalization,
    input: &mut Vec<f32>,
) -> Result<(), EngineError> {
    let len = images.first().map_or(0, |image| image.elements());
    for image in images {
        check("an image of the batch", len, image.elements())?;
    }
    // what is there already is overwritten, so it need not be cleared
    input.resize(images.len() * len, 0.0);
    for (image, input) in images.iter().zip(input.chunks_exact_mut(len.max(1))) {
        match image {
            Image::Pixels(pixels) => normalization.write(pixels, input)?,
            Image::Tensor(values) => input.copy_from_slice(values),
        }
    }
    Ok(())
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<(), EngineError> {
    if expected == found {
        return Ok(());
    }
    Err(EngineError::Length {
        what,
        expected,
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];

    fn normalised(level: u8, channel: usize) -> f32 {
        (f32::from(level) / 255.0 - MEAN[channel]) / STD[channel]
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn every_level_is_normalised_to_the_bit() {
        let normalization = Normalization::new(MEAN, STD);
        for (channel, levels) in normalization.table().iter().enumerate() {
            let expected: Vec<f32> = (0..=255).map(|l| normalised(l, channel)).collect();
            assert_eq!(bits(levels), bits(&expected), "channel {channel}");
        }
        // every level in every channel, at another place in each
        let pixels: Vec<u8> = (0..3 * 256).map(|i| (i / 3 + 85 * (i % 3)) as u8).collect();
        let mut planes = vec![f32::NAN; pixels.len()];
        normalization.write(&pixels, &mut planes).unwrap();
        let expected: Vec<f32> = (0..3)
            .flat_map(|c| (0..256).map(move |i| (c, i)))
            .map(|(c, i)| normalised(pixels[3 * i + c], c))
            .collect();
        assert_eq!(bits(&planes), bits(&expected));
    }

    #[test]
    fn pixels_and_tensors_lie_side_by_side() {
        let normalization = Normalization::new(MEAN, STD);
        // one row of two pixels
        let pixels = Image::Pixels(vec![0, 1, 2, 253, 254, 255]);
        let tensor = Image::Tensor(vec![-1.5, -0.0, 7.0, 8.0, 9.0, 10.0]);
        let from_pixels = [(0, 0), (253, 0), (1, 1), (254, 1), (2, 2), (255, 2)];
        let from_pixels = from_pixels.map(|(level, channel)| normalised(level, channel));
        let Image::Tensor(from_tensor) = &tensor else {
            unreachable!()
        };
        let mut input = Vec::new();
        let mut expect = |batch: &[&Image], expected: &[&[f32]]| {
            gather(batch, &normalization, &mut input).unwrap();
            assert_eq!(bits(&input), bits(&expected.concat()));
        };
        expect(&[&tensor, &pixels], &[from_tensor, &from_pixels]);
        expect(
            &[&pixels, &tensor, &pixels],
            &[&from_pixels, from_tensor, &from_pixels],
        );
        // nothing is left of a larger batch
        expect(&[&pixels], &[&from_pixels]);
        expect(&[], &[]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let normalization = Normalization::new(MEAN, STD);
        let refusal = |images: &[&Image]| {
            let error = gather(images, &normalization, &mut Vec::new()).unwrap_err();
            assert!(matches!(error, EngineError::Length { .. }), "{error:?}");
            error.to_string()
        };
        // of the right length together
        let (short, long) = (Image::Pixels(vec![0; 3]), Image::Tensor(vec![0.0; 9]));
        let text = refusal(&[&Image::Pixels(vec![0; 6]), &short, &long]);
        assert_eq!(text, "an image of the batch has 3 values, expected 6");
        let text = refusal(&[&Image::Pixels(vec![0; 5])]);
        assert_eq!(text, "an image of 8-bit RGB has 5 values, expected 3");
        let error = normalization.write(&[0; 6], &mut [0.0; 5]).unwrap_err();
        let text = error.to_string();
        assert_eq!(text, "the input of an image has 5 values, expected 6");
    }
}
