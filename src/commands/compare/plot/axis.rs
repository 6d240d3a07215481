//! One axis: the range of values, where a value lies on it, and its ticks.

use std::ops::RangeInclusive;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// For values above 0.
    Logarithmic,
}

/// Title with its unit, and the range that holds all values with some room around them.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) title: &'static str,
    scale: Scale,
    /// Of the values; on a logarithmic axis of their logarithms to base 10.
    low: f64,
    high: f64,
}

/// Room at both ends, as a share of the range.
const MARGIN: f64 = 0.07;
/// The least range: points on a linear axis, decades on a logarithmic one. One value alone needs ticks around it too.
const LEAST: f64 = 4.0;
const LEAST_DECADES: f64 = 0.7;
const MOST_TICKS: f64 = 9.0;

impl Axis {
    /// # Panics
    /// Never: without a usable value the range is some around 1.
    pub(super) fn over(
        title: &'static str,
        scale: Scale,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        let values = values.into_iter().map(|value| scale.place(value));
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (scale.place(1.0), scale.place(1.0));
        }
        let least = match scale {
            Scale::Linear => LEAST,
            Scale::Logarithmic => LEAST_DECADES,
        };
        let room = ((least - (high - low)) / 2.0).max(MARGIN * (high - low));
        Self {
            title,
            scale,
            low: low - room,
            high: high + room,
        }
    }

    /// Where a value lies: 0 at the start, 1 at the end.
    pub(super) fn fraction(&self, value: f64) -> f64 {
        (self.scale.place(value) - self.low) / (self.high - self.low)
    }

    /// Round values with the text beside them, ascending.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => self.linear_ticks(),
            Scale::Logarithmic => self.logarithmic_ticks(),
        }
    }

    fn linear_ticks(&self) -> Vec<(f64, String)> {
        let range = self.high - self.low;
        let power = range.log10().floor() as i32 - 1;
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0].map(|digit| digit * 10f64.powi(power));
        let fitting = steps.into_iter().find(|step| range / step <= MOST_TICKS);
        let step = fitting.unwrap_or(range);
        let decimals = usize::try_from(-step.log10().floor() as i32).unwrap_or(0);
        whole(self.low / step, self.high / step)
            .map(|index| (f64::from(index) * step, decimals))
            .map(|(value, decimals)| (value, format!("{value:.decimals$}")))
            .collect()
    }

    fn logarithmic_ticks(&self) -> Vec<(f64, String)> {
        let digits: &[u8] = match self.high - self.low {
            ..0.9 => &[1, 2, 3, 5, 7],
            ..3.2 => &[1, 2, 5],
            _ => &[1],
        };
        let powers = (self.low.floor() as i32)..=(self.high.floor() as i32);
        let ticks = powers.flat_map(|power| {
            digits.iter().map(move |&digit| {
                let decimals = usize::try_from(-power).unwrap_or(0);
                let value = f64::from(digit) * 10f64.powi(power);
                (value, format!("{value:.decimals$}"))
            })
        });
        ticks
            .filter(|(value, _)| (0.0..=1.0).contains(&self.fraction(*value)))
            .collect()
    }
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Logarithmic => value.log10(),
        }
    }
}

/// The whole numbers from `low` to `high`.
fn whole(low: f64, high: f64) -> RangeInclusive<i32> {
    (low.ceil() as i32)..=(high.floor() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale, values: &[f64]) -> Vec<String> {
        let axis = Axis::over("", scale, values.iter().copied());
        let ticks = axis.ticks();
        for (value, _) in &ticks {
            assert!((0.0..=1.0).contains(&axis.fraction(*value)), "{ticks:?}");
        }
        ticks.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(
            texts(Scale::Linear, &[56.5, 79.3]),
            ["55", "60", "65", "70", "75", "80"]
        );
        assert_eq!(
            texts(Scale::Logarithmic, &[0.7, 20.0]),
            ["1", "2", "5", "10", "20"]
        );
        assert_eq!(
            texts(Scale::Logarithmic, &[0.04, 800.0]),
            ["0.1", "1", "10", "100", "1000"]
        );
    }

    #[test]
    fn one_value_or_none_has_ticks_around_it() {
        assert_eq!(
            texts(Scale::Linear, &[88.1]),
            [
                "86.5", "87.0", "87.5", "88.0", "88.5", "89.0", "89.5", "90.0"
            ]
        );
        assert_eq!(texts(Scale::Logarithmic, &[4.0]), ["2", "3", "5", "7"]);
        assert!(!texts(Scale::Logarithmic, &[]).is_empty());
        assert!(!texts(Scale::Linear, &[f64::NAN]).is_empty());
        // nothing lies at the logarithm of 0
        assert_eq!(texts(Scale::Logarithmic, &[0.0, 4.0]), ["2", "3", "5", "7"]);
    }

    #[test]
    fn a_value_lies_where_its_scale_puts_it() {
        let linear = Axis::over("", Scale::Linear, [0.0, 100.0]);
        assert!((linear.fraction(50.0) - 0.5).abs() < 1e-12);
        let logarithmic = Axis::over("", Scale::Logarithmic, [1.0, 100.0]);
        assert!((logarithmic.fraction(10.0) - 0.5).abs() < 1e-12);
        assert!(linear.fraction(0.0) > 0.0 && linear.fraction(100.0) < 1.0);
    }
}
