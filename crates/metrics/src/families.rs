//! All families: names, types, labels, units and meaning. `docs/metrics.md` is made from this file.
//!
//! Units are base units (seconds, bytes, ratios from 0 to 1) and part of the name. Labels have few and fixed values.

use std::sync::LazyLock;

use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::buckets::{LONG, REQUEST, SHORT};
pub use crate::make::Family;
use crate::make::{Make, registered};

macro_rules! families {
    (
        $(#[$doc:meta])*
        $name:ident, $get:ident {
            $( $field:ident: $type:ty = $full:literal [$($label:literal),*] $(in $buckets:ident)? $help:literal; )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            $( #[doc = $help] pub $field: $type, )*
        }

        impl $name {
            /// What is documented.
            pub const FAMILIES: &'static [Family] = &[
                $( Family {
                    name: $full,
                    kind: <$type as Make>::KIND,
                    labels: &[$($label),*],
                    help: $help,
                    buckets: families!(@buckets $($buckets)?),
                }, )*
            ];

            fn register() -> Self {
                let mut families = Self::FAMILIES.iter();
                Self { $( $field: registered(families.next().expect(stringify!($field))), )* }
            }
        }

        /// The families, made when they are first used.
        pub fn $get() -> &'static $name {
            static FAMILIES: LazyLock<$name> = LazyLock::new($name::register);
            &FAMILIES
        }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

families! {
    /// Of every process.
    Process, process {
        build_info: GaugeVec = "stillhouse_build_info" ["version", "role"] "1, with the version and the role of the process.";
    }
}

families! {
    /// Of the coordinator: what the job does, and with whom.
    Coordinator, coordinator {
        job_info: GaugeVec = "stillhouse_job_info" ["job", "teacher"] "1, with the names of job and teacher model.";
        running: Gauge = "stillhouse_job_running" [] "1 while the job goes on, 0 once it is finished or stopped.";
        paused: Gauge = "stillhouse_job_paused" [] "1 while the teacher keeps the job waiting.";
        started: Gauge = "stillhouse_job_start_time_seconds" [] "When the job was first started, since 1970.";
        restarts: Gauge = "stillhouse_job_restarts" [] "How often the job was taken up again.";
        round: GaugeVec = "stillhouse_job_round" ["arm"] "The round that is under way or was last; 0 has the seed images only.";
        rounds_planned: Gauge = "stillhouse_job_rounds_planned" [] "Rounds that the budget pays for.";
        stage: GaugeVec = "stillhouse_job_stage" ["stage"] "1 for the stage that is under way: scoring, querying, generating or training.";
        stage_progress: Gauge = "stillhouse_job_stage_progress_ratio" [] "How far that stage is.";
        stage_seconds: HistogramVec = "stillhouse_job_stage_duration_seconds" ["stage"] in LONG "How long a stage of a round took.";
        last_progress: Gauge = "stillhouse_job_last_progress_time_seconds" [] "When something was last scored, answered or trained, since 1970.";
        events: IntCounterVec = "stillhouse_job_events_total" ["event"] "Entries of the event log.";
        scored: IntCounter = "stillhouse_candidates_scored_total" [] "Candidates scored, all workers together.";
        pool_pairs: Gauge = "stillhouse_pool_pairs" [] "Pairs of the pool.";
        selected: IntCounterVec = "stillhouse_candidates_selected_total" ["arm"] "Candidates chosen to be asked.";
        cut: GaugeVec = "stillhouse_selection_cut_score" ["arm"] "Exact score of the last candidate that was chosen in the latest round.";
        rescored: Gauge = "stillhouse_selection_rescored_pairs" [] "Pairs around the cut that were scored exactly in the latest round.";
        deviation: Gauge = "stillhouse_selection_deviation_score" [] "Largest difference between scanned and exact score in the latest round.";
        rescans: IntCounter = "stillhouse_selection_rescans_total" [] "Scans that had to be repeated with a wider guard.";
        scan_seconds: Histogram = "stillhouse_selection_scan_seconds" [] in LONG "How long the pool was scanned in a round.";
        rescore_seconds: Histogram = "stillhouse_selection_rescore_seconds" [] in LONG "How long the band around the cut was rescored in a round.";
        trained: IntCounterVec = "stillhouse_students_trained_total" ["arm"] "Students trained to the end.";
        loss: GaugeVec = "stillhouse_student_loss" ["arm"] "Mean cross-entropy in the last epoch of the latest student.";
        accuracy: GaugeVec = "stillhouse_student_accuracy_ratio" ["arm"] "Of the latest student, where true classes are known.";
        agreement: GaugeVec = "stillhouse_student_agreement_ratio" ["arm"] "With the teacher, of the latest student, where the teacher was asked.";
        training_step: Gauge = "stillhouse_training_step" [] "Steps of the training under way that are applied.";
        training_steps: Gauge = "stillhouse_training_steps_planned" [] "Steps that it has.";
        worlds: IntCounter = "stillhouse_training_worlds_total" [] "Worlds of ranks that were formed: one a training when nobody is lost.";
        workers: GaugeVec = "stillhouse_workers" ["occupation"] "Workers that are there, by what they do: idle, scoring, training or exporting.";
        workers_joined: IntCounter = "stillhouse_workers_joined_total" [] "Workers that were welcomed.";
        workers_lost: IntCounter = "stillhouse_workers_lost_total" [] "Workers whose link ended.";
        workers_refused: IntCounter = "stillhouse_workers_refused_total" [] "Workers that were refused: another version, another kind of device.";
        heartbeats: IntCounter = "stillhouse_worker_heartbeats_total" [] "Signs of life of workers that had nothing else to say.";
        commands_failed: IntCounter = "stillhouse_worker_commands_failed_total" [] "Commands that a worker reported as failed.";
        link_sent: IntCounter = "stillhouse_worker_link_sent_bytes_total" [] "Bytes of messages to workers.";
        link_received: IntCounter = "stillhouse_worker_link_received_bytes_total" [] "Bytes of messages from workers.";
        checkpoints: IntCounterVec = "stillhouse_checkpoints_total" ["outcome"] "Checkpoints that were kept, or failed to be.";
        checkpoint_bytes: Gauge = "stillhouse_checkpoint_bytes" [] "Size of the latest checkpoint.";
        checkpoint_seconds: Histogram = "stillhouse_checkpoint_write_seconds" [] in REQUEST "How long a checkpoint took to be kept.";
        guard: GaugeVec = "stillhouse_guard_verdict" ["verdict"] "1 for what the guard has found so far: undecided, pays or harms. Nothing without a guard.";
        disk_free: Gauge = "stillhouse_disk_free_bytes" [] "Room on the disk of the job directory.";
        disk: Gauge = "stillhouse_disk_bytes" [] "Size of that disk.";
    }
}

families! {
    /// Of the budget and the ledger that guards it.
    LedgerWriter, ledger {
        budget: Gauge = "stillhouse_budget_queries" [] "Queries that may be billed.";
        left: Gauge = "stillhouse_budget_left_queries" [] "Queries that may still be permitted.";
        billed: Gauge = "stillhouse_budget_billed_queries" [] "Queries that are billed, or may be.";
        cost: Gauge = "stillhouse_budget_billed_cost" [] "Their price, where the job names one, in its currency.";
        permits: GaugeVec = "stillhouse_permits" ["state"] "Permits by state: reserved, sent, ambiguous, spent or committed.";
        labels: GaugeVec = "stillhouse_labels" ["source"] "Labels in the ledger: bought, or imported from other jobs at no charge.";
        purchases: GaugeVec = "stillhouse_purchases_queries" ["category"] "Queries billed for certain, by what was asked: seed, active, control or evaluation.";
        writes: Histogram = "stillhouse_ledger_write_seconds" [] in SHORT "How long a group of changes took to be on disk.";
        changes: IntCounter = "stillhouse_ledger_changes_total" [] "Changes that were written.";
        failed: Gauge = "stillhouse_ledger_failed" [] "1 once a write failed: nothing is sent any more.";
    }
}

families! {
    /// Of the desk, where gateways ask before they send.
    Desk, desk {
        latency: Histogram = "stillhouse_teacher_latency_seconds" [] in REQUEST "From the first byte of a request to the last of its answer.";
        requests: IntCounterVec = "stillhouse_teacher_requests_total" ["outcome"] "Requests by what came of them: answered, or the kind of failure.";
        answers: IntCounterVec = "stillhouse_teacher_images_total" ["outcome"] "Images by what came of them: labelled, declined, useless (both billed), refused (not billed) or in-doubt.";
        statuses: IntCounterVec = "stillhouse_teacher_failure_statuses_total" ["status"] "Failed requests that were answered, by HTTP status.";
        waits: IntCounter = "stillhouse_teacher_pauses_total" [] "Pauses because the teacher refused or was away.";
        pause_seconds: Counter = "stillhouse_teacher_pause_seconds_total" [] "Length of those pauses, as they were decided.";
        rate_seconds: Histogram = "stillhouse_teacher_rate_wait_seconds" [] in REQUEST "How long a request waited for the rate.";
        rate: Gauge = "stillhouse_teacher_rate_limit_images" [] "Images a second that are tried now; 0 without a limit.";
        in_flight: Gauge = "stillhouse_teacher_requests_in_flight" [] "Requests that may have left and are not settled.";
        gateways: Gauge = "stillhouse_gateways" [] "Gateways of other processes that are there.";
        gateways_lost: IntCounter = "stillhouse_gateways_left_total" [] "Gateways of other processes that left or were lost.";
        stopped: Gauge = "stillhouse_asking_stopped" [] "1 once asking stopped for a reason.";
        known: IntCounter = "stillhouse_queries_known_total" [] "Queries that cost nothing because their label was known.";
        shared: IntCounter = "stillhouse_queries_shared_total" [] "Queries that cost nothing because somebody asked already.";
        permitted: IntCounter = "stillhouse_queries_permitted_total" [] "Queries that got a permit.";
        held: IntCounter = "stillhouse_queries_held_total" [] "Queries that are not asked again, without a label.";
    }
}

families! {
    /// Of the queue between coordinator and gateways.
    Queue, queue {
        depth: Gauge = "stillhouse_queue_references" [] "References that wait or are leased.";
        reclaimed: IntCounter = "stillhouse_queue_reclaimed_total" [] "References taken back from gateways that died.";
        errors: IntCounter = "stillhouse_queue_errors_total" [] "Calls that the queue did not answer.";
        restored: IntCounter = "stillhouse_queue_restored_total" [] "Times that the queue was filled again because it had lost something.";
    }
}

families! {
    /// Of a gateway.
    Gateway, gateway {
        requests: IntCounterVec = "stillhouse_gateway_requests_total" ["outcome"] "Requests that this process sent: answered or failed.";
        images: IntCounter = "stillhouse_gateway_images_total" [] "Images that it sent.";
        seconds: Histogram = "stillhouse_gateway_request_seconds" [] in REQUEST "How long its requests took.";
        render_seconds: Counter = "stillhouse_gateway_render_seconds_total" [] "Time spent rendering images and checking their keys.";
        foreign: IntCounter = "stillhouse_gateway_foreign_references_total" [] "References that name none of its images: always 0, or something is very wrong.";
    }
}

families! {
    /// Of a worker.
    Worker, worker {
        device_info: GaugeVec = "stillhouse_worker_device_info" ["device"] "1, with the kind of device that it computes on.";
        connected: Gauge = "stillhouse_worker_connected" [] "1 while it is linked to a coordinator.";
        links_lost: IntCounter = "stillhouse_worker_links_lost_total" [] "Links to a coordinator that were lost.";
        busy: GaugeVec = "stillhouse_worker_busy" ["command"] "1 for the command that it obeys: load, scan, rescore, calibrate, train or export.";
        command_seconds: HistogramVec = "stillhouse_worker_command_seconds" ["command"] in LONG "How long a command took.";
        scored: IntCounter = "stillhouse_worker_candidates_scored_total" [] "Candidates that it scored.";
        steps: IntCounter = "stillhouse_worker_training_steps_total" [] "Training steps that it took part in.";
        step_seconds: HistogramVec = "stillhouse_worker_training_step_seconds" ["part"] in SHORT "Parts of a training step: forward (images included), backward, wait (for other ranks), all-reduce (adding gradients; between cards the wait too) and update.";
        loss: Gauge = "stillhouse_worker_training_loss" [] "Mean cross-entropy of the latest step.";
        ranks: Gauge = "stillhouse_worker_training_ranks" [] "Ranks of the training that it takes part in; 0 without one.";
        failures: CounterVec = "stillhouse_worker_failures_total" ["retry"] "Commands that failed, by whether another try is of use.";
        card_memory: GaugeVec = "stillhouse_worker_card_memory_bytes" ["card"] "Memory of its card. Nothing without one.";
        card_memory_used: GaugeVec = "stillhouse_worker_card_memory_used_bytes" ["card"] "What is used of it, by all processes.";
        card_busy: GaugeVec = "stillhouse_worker_card_busy_ratio" ["card"] "Part of the last moments in which the card computed, whatever it was.";
    }
}

families! {
    /// Of a teacher that `teacher serve` serves.
    TeacherServer, teacher_server {
        requests: IntCounterVec = "stillhouse_served_requests_total" ["outcome"] "Requests for answers: answered, refused (nothing was billed) or failed.";
        images: IntCounter = "stillhouse_served_images_total" [] "Images answered.";
        seconds: Histogram = "stillhouse_served_request_seconds" [] in REQUEST "How long a request took, waiting for its turn included.";
    }
}

families! {
    /// Of the operator of a cluster.
    Operator, operator {
        leader: Gauge = "stillhouse_operator_leader" [] "1 while this replica is the one that acts.";
        jobs: GaugeVec = "stillhouse_operator_jobs" ["phase"] "Jobs by phase.";
        reconciles: IntCounterVec = "stillhouse_operator_reconciles_total" ["outcome"] "Looks at a job: done or failed.";
        reconcile_seconds: Histogram = "stillhouse_operator_reconcile_seconds" [] in SHORT "How long a look at a job took, writes included.";
        writes: IntCounterVec = "stillhouse_operator_writes_total" ["kind"] "Writes to the cluster: apply, delete or status. A job that does not change costs none.";
    }
}

/// All of them, by role.
pub const ALL: &[(&str, &[Family])] = &[
    ("Every process", Process::FAMILIES),
    ("Coordinator", Coordinator::FAMILIES),
    ("Budget and ledger", LedgerWriter::FAMILIES),
    ("Teacher, as the coordinator sees it", Desk::FAMILIES),
    ("Queue", Queue::FAMILIES),
    ("Gateway", Gateway::FAMILIES),
    ("Worker", Worker::FAMILIES),
    ("A teacher of one's own", TeacherServer::FAMILIES),
    ("Operator", Operator::FAMILIES),
];

/// Makes all families at once, as no process does.
#[cfg(test)]
pub(crate) fn register_all() {
    let (_, _, _, _) = (process(), coordinator(), ledger(), desk());
    let (_, _, _, _, _) = (queue(), gateway(), worker(), teacher_server(), operator());
}
