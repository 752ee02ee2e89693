//! Which of the pending sectors a power cut keeps.

use fastrand::Rng;

use crate::medium::Choice;

/// Pending sectors of which all subsets are tried, and the most combinations of their versions.
const ALL_MAX: usize = 12;
const COMBINATIONS_MAX: usize = 1 << ALL_MAX;
/// Sectors that are mostly written together.
const SECTORS_PER_PAGE: u64 = 8;
/// Random ones, where there are too many for all.
const RANDOM: usize = 12;

/// For each cut, the option chosen for each of `choices`.
pub(crate) fn cuts(choices: &[Choice], rng: &mut Rng) -> Vec<Vec<usize>> {
    let options: Vec<_> = choices.iter().map(|choice| choice.options.len()).collect();
    let combinations = options.iter().try_fold(1, |all: usize, &options| all.checked_mul(options));
    match combinations {
        Some(combinations @ ..=COMBINATIONS_MAX) if options.len() <= ALL_MAX => all(&options, combinations),
        _ => some(choices, &options, rng),
    }
}

fn all(options: &[usize], combinations: usize) -> Vec<Vec<usize>> {
    (0..combinations)
        .map(|mut number| {
            let digit = |&options: &usize| {
                let digit = number % options;
                number /= options;
                digit
            };
            options.iter().map(digit).collect()
        })
        .collect()
}

/// None kept, all kept, all but one page or sector, only one, and random ones.
fn some(choices: &[Choice], options: &[usize], rng: &mut Rng) -> Vec<Vec<usize>> {
    let none = vec![0; options.len()];
    let kept: Vec<_> = options.iter().map(|options| options - 1).collect();
    let indices: Vec<_> = (0..options.len()).collect();
    let page = |&index: &usize| (choices[index].file, choices[index].at / SECTORS_PER_PAGE);
    let pages = indices.chunk_by(|one, other| page(one) == page(other));
    let mut cuts = vec![none.clone(), kept.clone()];
    for group in pages.chain(indices.chunks(1)) {
        let (mut lost, mut only) = (kept.clone(), none.clone());
        for &index in group {
            (lost[index], only[index]) = (0, kept[index]);
        }
        cuts.extend([lost, only]);
    }
    cuts.extend((0..RANDOM).map(|_| options.iter().map(|&options| rng.usize(..options)).collect()));
    cuts
}
