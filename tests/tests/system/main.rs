//! The whole system: the programs that `make build` makes, as processes, on real images.
//!
//! | module | what must hold |
//! |---|---|
//! | [`house`] | rules of this repository |
//! | [`same`] | the queries and the student do not depend on who computes, or on the format of the images |
//! | [`killed`] | `kill -9` at any moment costs no label and bills nothing twice |
//! | [`ordeal`] | nor does anything else that can happen to jobs with gateways and a Redis queue |
//! | [`refused`] | bad input gets one clear error, and nothing is spent |
//! | [`teachers`] | so do bad teachers, or they cost one query |
//! | [`gateways`] | gateways on their own and a queue that vanishes change neither queries nor student |
//! | [`generated`] | images of a conditional VAE are candidates like any other |
//! | [`elastic`] | workers killed at random change nothing; a training goes on from its checkpoint |
//! | [`cluster`] | coordinator and workers as processes of their own, in any order; watchers |
//! | [`tls`] | under TLS it is the same job, and nothing of it is read on the way |
//! | [`chaos`] | nor does what users do to their own jobs, and what they are told of it is so |
//! | [`hosts`] | the same over a network whose cables are pulled |
//! | [`ledger`] | the books are right, agree with the bill, and no label is bought twice over a sweep |
//! | [`stores`] | nor do a store that speaks S3, for images, checkpoints and results |
//! | [`methods`] | the published methods and our own learn real digits from a real teacher |
//! | [`torchscript`] | students leave and enter as TorchScript |
//! | [`monitoring`] | metrics, dashboards and alerts agree with each other and with a real Prometheus |
//! | [`traces`] | each query batch is one trace through every process |
//! | [`page`] | the report is a page that a browser shows |
//! | [`live`] | so is the running job, through the death of its coordinator |

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod branches;
mod browser;
mod chaos;
mod cluster;
mod elastic;
mod gateways;
mod generated;
mod hosts;
mod house;
mod killed;
mod ledger;
mod live;
mod methods;
mod monitoring;
mod ordeal;
mod page;
mod refused;
mod same;
mod stores;
mod teachers;
mod tls;
mod torchscript;
mod traces;
mod world;
