//! Class names: one a line, line i for class i.

/// torchvision's names of the ImageNet-1k classes.
const IMAGENET: &str = include_str!("imagenet1k_labels.txt");
const CIFAR10: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// Longest label, in bytes.
const LONGEST: usize = 1000;

/// The lines of a label file; empty lines at its end do not count.
///
/// # Errors
/// In words, for an empty line or one that is too long.
pub(super) fn parse(text: &str) -> Result<Vec<String>, String> {
    let lines = text.trim_start_matches('\u{feff}').trim_end().lines();
    lines
        .enumerate()
        .map(|(i, line)| match line.trim() {
            "" => Err(format!(
                "line {} is empty; each line names one class",
                i + 1
            )),
            label if label.len() > LONGEST => {
                Err(format!("line {} is longer than {LONGEST} bytes", i + 1))
            }
            label => Ok(label.to_owned()),
        })
        .collect()
}

/// Names for a model that brings none. `native` is the number of classes its architecture was designed for: a network
/// retrained for another number, or for ten things of its own, must not answer with another data set's names.
pub(super) fn default(classes: usize, native: usize) -> Vec<String> {
    match classes {
        1000 if native == 1000 => IMAGENET.lines().map(str::to_owned).collect(),
        10 if native == 10 => CIFAR10.map(str::to_owned).to_vec(),
        _ => (0..classes).map(|i| format!("class_{i}")).collect(),
    }
}
