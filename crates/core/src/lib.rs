//! The nouns of Stillhouse: what a candidate is, how its pixels are made, how it is named, scored
//! and selected, and what a job says. Pure: no clock, thread, file, socket or random source.
//!
//! Modules in reading order, following one candidate from pool index to query:
//!
//! | module | noun |
//! |---|---|
//! | [`image`] | shape of an image and a set of equal-sized `u8` images |
//! | [`pool`] | pair of seed images by unranking, lambda grid, candidate |
//! | [`one_shot`] | FS-BBT's random mixes, chosen by no score |
//! | [`mix`] | the canonical integer mix of two images |
//! | [`sample`] | one thing that can be asked and trained on: a seed image, a mix, an evaluation image |
//! | [`score`] | acquisition functions over logits, order-preserving score bits |
//! | [`stochastic`] | scores with noise |
//! | [`diversity`] | a batch that is less alike than the best |
//! | [`selection`] | the exact k best under a total order, from any number of shards |
//! | [`guard`] | whether active selection pays |
//! | [`key`] | the name of a query: BLAKE3 over exact bytes and teacher fingerprint |
//! | [`label`] | the teacher's answer |
//! | [`sampler`] | counter-based randomness |
//! | [`dice`] | its draws one after another, for trials |
//! | [`shards`] | which rank computes which virtual shard of a training step |
//! | [`job`] | the job file: what was written, and what was meant |
//! | [`plan`] | the steps of a job and what they cost |
//! | [`standing`] | how far a job is, in a few words |
//! | [`trace`] | names of traces, the same whoever adds to one |

pub mod dice;
pub mod diversity;
pub mod guard;
pub mod image;
pub mod job;
pub mod key;
pub mod label;
pub mod mix;
pub mod one_shot;
pub mod plan;
pub mod pool;
pub mod sample;
pub mod sampler;
pub mod score;
pub mod selection;
pub mod shards;
pub mod standing;
pub mod stochastic;
pub mod trace;

pub use diversity::Diversity;
pub use image::{ImageSet, ImageShape};
pub use job::{Job, JobSpec};
pub use key::{Fingerprint, Key};
pub use label::SoftLabel;
pub use one_shot::BetaMixup;
pub use pool::{Candidate, Lambda, LambdaGrid, PairId, Pairing, Pool};
pub use sample::Sample;
pub use score::{Acquisition, ScoreBits};
pub use stochastic::Stochastic;
