//! Stillhouse on Kubernetes: the custom resource, and what a cluster must have for a job.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | `spec.cluster`: what a cluster needs to know beyond the job |
//! | [`crd`] | the custom resource and its definition |
//! | [`request`] | what an object asks for, with the checks that a laptop makes |
//! | [`desired`] | the objects of a job as a pure function of what is asked and what is there |
//! | [`offline`] | what an API server would say to a new object, without one |
//! | [`pods`] | the pods of coordinator, workers and gateways |
//! | [`sight`], [`index`] | what is seen of a job |
//! | [`status`], [`news`] | what is said of it, as pure functions |
//! | [`apply`] | writes, and as few as possible |
//! | [`controller`] | the loop around them: see, decide, apply, tell |

pub mod apply;
pub mod cluster;
pub mod controller;
pub mod crd;
pub mod desired;
pub mod index;
pub mod news;
pub mod offline;
pub mod pods;
pub mod request;
pub mod sight;
pub mod status;
