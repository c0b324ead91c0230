//! Where activations lie.

/// Outputs a side of a tile of the convolutions.
pub(super) const OUTPUTS: usize = 4;

/// Activations of one image, `[block][row][column][lane]`: a vector holds as many channels as the
/// processor has lanes. Around the image is a border of zeros for the 3x3 kernels, which also fills
/// the last tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plane {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Plane {
    /// Columns with the border.
    pub(super) fn row(self) -> usize {
        self.width.next_multiple_of(OUTPUTS) + 2
    }

    /// Pixels of one channel with the border.
    pub(super) fn area(self) -> usize {
        (self.height.next_multiple_of(OUTPUTS) + 2) * self.row()
    }

    /// Numbers of one image.
    pub(super) fn len(self) -> usize {
        self.channels * self.area()
    }

    /// Position of a pixel within its channel.
    pub(super) fn at(self, y: usize, x: usize) -> usize {
        (y + 1) * self.row() + x + 1
    }

    /// The plane behind a convolution of stride 2.
    pub(super) fn halved(self, channels: usize) -> Self {
        Self {
            channels,
            height: self.height.div_ceil(2),
            width: self.width.div_ceil(2),
        }
    }

    /// Tiles of one image: rows and columns.
    pub(super) fn tiles(self) -> [usize; 2] {
        [self.height.div_ceil(OUTPUTS), self.width.div_ceil(OUTPUTS)]
    }
}
