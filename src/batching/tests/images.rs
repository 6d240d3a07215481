//! Images of either form in one batch, and engines that take pixels themselves.

use super::*;
use crate::engine::{EngineError, EngineInfo, Ran};

const LEN: usize = 6;

fn submit(house: &House, image: Image) -> Answer {
    let ticket = house.batcher.admit(1).unwrap();
    ticket.submit(image, terms())
}

#[test]
fn pixels_and_tensors_go_in_one_batch() {
    let (engine, mut remote) = Fake::gated(sum_and_difference);
    let house = House::of(vec![Box::new(engine)], signature(LEN), config(8, HOUR, 8));
    let first = submit(&house, Image::Tensor(vec![0.0; LEN]));
    assert_eq!(remote.arrival(), 1);
    let tensor = [8.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    let answers = [
        Image::Tensor(tensor.into()),
        Image::Pixels(vec![0, 0, 0, 255, 255, 255]),
        Image::Tensor(tensor.into()),
    ]
    .map(|image| submit(&house, image));
    remote.open();
    assert!(wait(first).is_ok());
    let logits = answers.map(|answer| {
        let output = wait(answer).unwrap();
        assert_eq!(output.batch_size, 3);
        output.logits().to_vec()
    });
    assert_eq!(logits, [[9.0, 7.0], [1.0, -1.0], [9.0, 7.0]]);
    // black and white, channel by channel
    let pixels = [0.0, 1.0, -0.5, 1.5, -2.0, 2.0];
    assert_eq!(
        *remote.record.last.lock().unwrap(),
        [tensor, pixels, tensor].concat()
    );
}

#[test]
fn pixels_of_another_number_are_refused_before_they_are_queued() {
    let (engine, remote) = Fake::instant(sum_and_difference);
    let house = House::of(vec![Box::new(engine)], signature(LEN), config(8, HOUR, 8));
    let length = BatchError::ImageLength {
        expected: LEN,
        found: 3,
    };
    let wrong = submit(&house, Image::Pixels(vec![0; 3]));
    assert_eq!(wait(wrong).unwrap_err(), length);
    assert!(house.is_empty());
    assert_eq!(remote.images(), 0);
}

/// Takes the pixels as they come, and says that this took `GATHERED`.
struct Device(EngineInfo);

/// Less than any batch takes, so that some of its time is left for the pass.
const GATHERED: Duration = Duration::from_nanos(1);

impl Engine for Device {
    fn info(&self) -> &EngineInfo {
        &self.0
    }

    fn forward(&mut self, _: usize, _: &[f32], _: &mut [f32]) -> Result<(), EngineError> {
        Err(EngineError::Device("gathered on the host".into()))
    }

    fn forward_images(
        &mut self,
        batch: &Batch<'_>,
        staging: &mut Vec<f32>,
        logits: &mut [f32],
    ) -> Result<Ran, EngineError> {
        assert!(staging.is_empty(), "nothing was staged for this engine");
        let ran = Ran {
            gathered: GATHERED,
            best: None,
        };
        for (image, logits) in batch.images.iter().zip(logits.chunks_exact_mut(2)) {
            let Image::Pixels(pixels) = image else {
                return self
                    .forward(batch.images.len(), staging, logits)
                    .map(|()| ran);
            };
            let [reds, greens, _] = batch.normalization.table();
            logits.copy_from_slice(&[reds[usize::from(pixels[0])], greens[usize::from(pixels[1])]]);
        }
        std::thread::sleep(Duration::from_millis(1));
        Ok(ran)
    }
}

#[test]
fn an_engine_may_take_pixels_itself_and_says_how_long_that_took() {
    let (fake, _) = Fake::instant(sum_and_difference);
    let device = Device(fake.info().clone());
    let house = House::of(vec![Box::new(device)], signature(LEN), config(8, HOUR, 8));
    let image = submit(&house, Image::Pixels(vec![255, 0, 9, 9, 9, 9]));
    let output = wait(image).unwrap();
    assert_eq!(output.logits(), [1.0, -0.5]);
    let statistics = house.metrics.statistics.snapshot();
    let batches = statistics.batches[&1];
    assert_eq!((batches.input.count, batches.input.total), (1, GATHERED));
    assert_eq!(batches.infer.total, output.inference);
    assert!(output.inference >= Duration::from_micros(999));

    let tensor = submit(&house, Image::Tensor(vec![0.0; LEN]));
    let error = wait(tensor).unwrap_err();
    assert_eq!(error, BatchError::Engine("gathered on the host".into()));
}
