//! The nouns: pool, mix, key, score, selection, label, sampler, job.
