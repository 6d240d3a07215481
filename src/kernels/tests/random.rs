//! Convolutions of random shapes.

use proptest::prelude::*;

use super::cases::{ConvCase, EPILOGUES};
use super::*;

fn any_conv() -> impl Strategy<Value = ConvCase> {
    let channels = (1usize..4, 1usize..20, 1usize..20);
    let window = (1usize..6, 1usize..6, 1usize..4, 0usize..3, 0usize..3);
    let size = (1usize..20, 1usize..36, 1usize..4);
    let rest = (0usize..2, 0usize..3, any::<bool>(), 0..EPILOGUES);
    (channels, window, size, rest).prop_map(|(channels, window, size, rest)| {
        let (groups, inputs, outputs) = channels;
        ConvCase {
            batch: size.2,
            spec: ConvSpec {
                in_channels: groups * inputs,
                out_channels: groups * outputs,
                kernel: (window.0, window.1),
                stride: window.2,
                padding: (window.3, window.4),
                groups,
            },
            height: size.0.max(window.0),
            width: size.1.max(window.1),
            spare_border: rest.0,
            out_border: rest.1,
            gap: 2 - rest.1,
            narrow: rest.2 && groups == 1,
            wide: false,
            epilogue: rest.3,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_of_any_shape(case in any_conv()) {
        for token in Token::available() {
            for algorithm in Algorithm::ALL {
                if case.suits(token, algorithm) {
                    case.check(token, algorithm);
                }
            }
        }
    }
}
