use super::*;
use flate2::read::GzDecoder;
use std::io::Read;

const SMALL: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};
const CIFAR: ImageShape = ImageShape {
    channels: 3,
    height: 32,
    width: 32,
};

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn config(epochs: u32) -> CvaeConfig {
    CvaeConfig {
        epochs,
        batch: 32,
        learning_rate: 1e-3,
        latent: 2,
        spread: 3.0,
        seed: 5,
    }
}

/// The first UCI digits with their classes.
fn digits(count: usize) -> (ImageSet, Vec<u16>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/digits");
    let read = |name: &str, header: usize| {
        let file = std::fs::File::open(format!("{folder}/{name}")).expect("the example data is there");
        let mut bytes = Vec::new();
        GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
        bytes.split_off(header)
    };
    let mut pixels = read("train-images-idx3-ubyte.gz", 16);
    pixels.truncate(count * SMALL.len());
    let classes = read("train-labels-idx1-ubyte.gz", 8)
        .into_iter()
        .take(count)
        .map(u16::from);
    (ImageSet::new(SMALL, pixels).expect("whole images"), classes.collect())
}

fn noise(shape: ImageShape, count: usize) -> ImageSet {
    let stream = Stream::new(1, Purpose::Generation, 9);
    let pixels = (0..(count * shape.len()) as u64).map(|at| stream.at(at) as u8);
    ImageSet::new(shape, pixels.collect()).expect("whole images")
}

fn made(images: &ImageSet, classes: &[u16], config: &CvaeConfig, count: usize) -> Generated {
    let labelled = Labelled {
        images,
        classes,
        class_count: 10,
    };
    generate(labelled, config, count, Device::Cpu, &mut go_on).expect("generates")
}

/// The class whose mean image is nearest.
fn nearest(means: &[Vec<f64>], image: &[u8]) -> usize {
    let distance = |mean: &Vec<f64>| -> f64 { mean.iter().zip(image).map(|(m, p)| (m - f64::from(*p)).powi(2)).sum() };
    let distances: Vec<f64> = means.iter().map(distance).collect();
    (0..means.len())
        .min_by(|a, b| distances[*a].total_cmp(&distances[*b]))
        .expect("there are classes")
}

#[test]
fn generated_digits_are_of_the_class_that_was_asked_for_and_differ_from_each_other() {
    let (images, classes) = digits(1_000);
    let made = made(&images, &classes, &config(60), 400).images;
    let mut means = vec![vec![0.0; SMALL.len()]; 10];
    let mut counts = [0.0; 10];
    for (at, class) in classes.iter().enumerate() {
        counts[usize::from(*class)] += 1.0;
        let pixels = images.get(at).expect("within the set");
        means[usize::from(*class)]
            .iter_mut()
            .zip(pixels)
            .for_each(|(sum, pixel)| *sum += f64::from(*pixel));
    }
    for (mean, count) in means.iter_mut().zip(counts) {
        mean.iter_mut().for_each(|sum| *sum /= count);
    }
    let right = (0..400).filter(|at| nearest(&means, made.get(*at).expect("made")) == at % 10);
    let right = right.count();
    // Seven in ten: uniform codes lie where no image was, and a nearest mean is a weak judge.
    assert!(right >= 280, "{right} of 400 are nearest to their own class");
    let distinct: std::collections::HashSet<&[u8]> = (0..400).filter_map(|at| made.get(at)).collect();
    assert!(distinct.len() > 390, "{} of 400 differ", distinct.len());
}

#[test]
fn images_are_the_same_for_any_number_of_threads_and_others_for_another_seed() {
    let (images, classes) = digits(200);
    let digest = |seed, threads| {
        tch::set_num_threads(threads);
        let config = CvaeConfig { seed, ..config(3) };
        made(&images, &classes, &config, 30).images.digest()
    };
    assert_eq!(digest(1, 1), digest(1, 3));
    assert_ne!(digest(1, 1), digest(2, 1));
}

#[test]
fn classes_that_the_teacher_never_named_are_not_asked_for() {
    let (images, _) = digits(60);
    let classes: Vec<u16> = (0..60).map(|at| if at % 2 == 0 { 3 } else { 8 }).collect();
    let labelled = Labelled {
        images: &images,
        classes: &classes,
        class_count: 10,
    };
    let config = config(1);
    let fitting = Fitting::begin(labelled, &config, Device::Cpu).expect("fits");
    let pixels = fitting.decode(4).expect("decodes");
    // An untrained decoder tells two conditions apart, and codes of one image come from its own stream.
    let image = |at: usize| &pixels[at * SMALL.len()..][..SMALL.len()];
    let again = fitting.decode(2).expect("decodes");
    assert_eq!(&again[..], &pixels[..2 * SMALL.len()]);
    assert_ne!(image(0), image(1));
    let codes = fitting.codes(0..8, 2).expect("draws");
    let codes: Vec<Vec<f32>> = Vec::try_from(&codes).expect("two dimensions");
    // Images 2, 3, 6 and 7 have uniform codes.
    assert!([2, 3, 6, 7].iter().all(|at| codes[*at].iter().all(|z| z.abs() <= 3.0)));
}

/// The loss of the paper, number by number.
fn by_hand(logits: &[f64], images: &[f64], mean: &[f64], log_variance: &[f64], samples: f64) -> f64 {
    let entropy = logits.iter().zip(images).map(|(l, x)| {
        let p = 1.0 / (1.0 + (-l).exp());
        -(x * p.ln() + (1.0 - x) * (1.0 - p).ln())
    });
    let divergence = mean
        .iter()
        .zip(log_variance)
        .map(|(m, v)| -0.5 * (1.0 + v - m * m - v.exp()));
    (entropy.sum::<f64>() + divergence.sum::<f64>()) / samples
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.flatten(0, -1)).expect("double precision")
}

#[test]
fn the_loss_is_the_papers_and_its_gradient_is_that_of_finite_differences() {
    for shape in [SMALL, CIFAR] {
        let images = noise(shape, 3);
        let labelled = Labelled {
            images: &images,
            classes: &[1, 0, 1],
            class_count: 2,
        };
        let config = config(1);
        let mut fitting = Fitting::begin(labelled, &config, Device::Cpu).expect("fits");
        // In double precision, in which differences are worth something.
        let (_, slots) = Vae::plan(shape, 2, config.latent);
        let flat = fitting.parameters.flat().to_kind(Kind::Double);
        fitting.parameters = Parameters::over(flat, &slots).expect("the same sizes");
        let [pixels, conditions] = [&fitting.pixels, &fitting.conditions].map(|x| x.to_kind(Kind::Double));
        let noise = normal(stream(&config, Draw::Noise), [3, 2], Device::Cpu).expect("draws");
        let noise = noise.to_kind(Kind::Double);
        let loss = |fitting: &Fitting<'_>| fitting.loss(&pixels, &conditions, &noise).expect("computes");
        let codes = fitting
            .vae
            .encode(&fitting.parameters, &pixels, &conditions)
            .expect("encodes");
        let code = &codes.mean + (&codes.log_variance * 0.5).exp() * &noise;
        let logits = fitting
            .vae
            .decode(&fitting.parameters, &code, &conditions)
            .expect("decodes");
        let [logits, images, mean, log_variance] = [&logits, &pixels, &codes.mean, &codes.log_variance].map(numbers);
        let want = by_hand(&logits, &images, &mean, &log_variance, 3.0);
        let found = loss(&fitting);
        let value = found.double_value(&[]);
        assert!((value - want).abs() < 1e-9 * want, "{value} and {want}");
        let gradients = fitting.parameters.gradients(&found).expect("differentiates");
        // Along the gradient the loss grows by the gradient's own length.
        let length = gradients.square().sum(Kind::Double).sqrt().double_value(&[]);
        let step = 1e-7;
        let moved = |distance: f64| {
            let _no_grad = tch::no_grad_guard();
            let mut flat = fitting.parameters.flat().shallow_clone();
            let before = flat.copy();
            let _same = flat.g_add_(&(&gradients * (distance / length)));
            let value = loss(&fitting).double_value(&[]);
            flat.copy_(&before);
            value
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        // Some unit crosses its kink within any step.
        assert!((slope / length - 1.0).abs() < 1e-3, "{shape}: {slope} and {length}");
    }
}

#[test]
fn the_networks_have_the_released_codes_sizes() {
    let mnist = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    let count = |shape| {
        let (_, slots) = Vae::plan(shape, 10, 2);
        let parameters = Parameters::draw(&slots, Stream::new(0, Purpose::Generation, 0), Device::Cpu).expect("draws");
        parameters.flat().numel()
    };
    let linear = |inputs: usize, outputs: usize| (inputs + 1) * outputs;
    let encoder = linear(794, 256) + linear(256, 128) + linear(128, 64) + 2 * linear(64, 2);
    let decoder = linear(12, 64) + linear(64, 128) + linear(128, 256) + linear(256, 784);
    assert_eq!(count(mnist), encoder + decoder);
    let kernels = |channels: &[usize]| -> usize { channels.windows(2).map(|pair| (pair[0] * 16 + 1) * pair[1]).sum() };
    let encoder =
        linear(10, 1_024) + kernels(&[4, 32, 64, 128, 256, 512]) + linear(512, 32) + linear(32, 16) + 2 * linear(16, 2);
    let decoder = linear(12, 16)
        + linear(16, 32)
        + linear(32, 512)
        + kernels(&[512, 512, 256, 128, 64, 32, 3])
        + linear(12_288, 3_072);
    assert_eq!(count(CIFAR), encoder + decoder);
}

#[test]
fn training_lowers_the_loss_of_the_convolutional_networks_too() {
    let images = noise(CIFAR, 4);
    let labelled = Labelled {
        images: &images,
        classes: &[0, 1, 0, 1],
        class_count: 2,
    };
    let first = CvaeConfig { batch: 4, ..config(1) };
    let loss = |epochs| {
        let config = CvaeConfig { epochs, ..first };
        let made = generate(labelled, &config, 2, Device::Cpu, &mut go_on).expect("generates");
        assert_eq!(made.images.len(), 2);
        made.loss
    };
    let (before, after) = (loss(1), loss(12));
    assert!(after < before, "{before} {after}");
}

#[test]
fn what_cannot_be_trained_with_is_refused_and_an_observer_may_break_off() {
    let images = noise(SMALL, 2);
    let refused = |classes: &[u16], config: CvaeConfig| {
        let labelled = Labelled {
            images: &images,
            classes,
            class_count: 10,
        };
        let error = generate(labelled, &config, 1, Device::Cpu, &mut go_on).expect_err("refused");
        error.to_string()
    };
    assert!(refused(&[1], config(1)).contains("found 1 for 2"));
    assert!(refused(&[1, 10], config(1)).contains("classes below 10"));
    assert!(refused(&[1, 2], config(0)).contains("above 0"));
    let wild = CvaeConfig {
        learning_rate: 1e30,
        ..config(20)
    };
    assert!(refused(&[1, 2], wild).contains("diverged"));
    let labelled = Labelled {
        images: &images,
        classes: &[1, 2],
        class_count: 10,
    };
    let stopped = generate(labelled, &config(9), 1, Device::Cpu, &mut |step, steps| {
        assert_eq!(steps, 9);
        if step == 4 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(stopped, Err(StudentError::Stopped { step: 4 })), "{stopped:?}");
}
