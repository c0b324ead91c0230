//! The command line of Stillhouse and the roles that do not need libtorch.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`commands`] | what each command does |
//! | [`inputs`] | a job with its images, read and checked |
//! | [`estimate`] | what a job will ask, compute and cost |
//! | [`reuse`] | labels of other jobs |
//! | [`coordinate`] | the coordinator's role |
//! | [`desk`] | the coordinator's side of asking: who may send what and when |
//! | [`gateway`] | the gateway's role: from queue to teacher to desk |
//! | [`queue_access`] | the Redis queue as a job file names it |
//! | [`job_dir`] | the directory of a job |
//! | [`labels_file`] | every label in one file |
//! | [`books`] | what a ledger says, checked and compared with a bill |
//! | [`export`] | queries and labels as Parquet or safetensors |
//! | [`store`] | folders and S3: images to fetch, results to deliver |
//! | [`report`] | what a job bought, for people and programs |
//! | [`watch`] | looking on while a job runs |
//! | [`web`] | the live page of a running job |
//! | [`chaos`] | disturbing a running job on purpose |
//! | [`curves`] | learning curves for TensorBoard, MLflow and spreadsheets |
//! | [`failure`] | a failure as the user sees it |

pub mod books;
pub mod chaos;
pub mod checkpoints;
pub mod cli;
pub mod commands;
pub mod coordinate;
pub mod curves;
pub mod desk;
pub mod estimate;
pub mod export;
pub mod failure;
pub mod gateway;
pub mod inputs;
pub mod job_dir;
pub mod labels_file;
pub mod queue_access;
pub mod report;
pub mod reuse;
pub mod store;
pub mod watch;
pub mod web;
