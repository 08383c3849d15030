"""All sizes and thresholds of this folder, with what was measured where they decide about time.

Times were measured on one or two cores with torch 2.13; ratios are of CPU times.
"""

#: Samples a batch when the user leaves it to us.
DEFAULT_BATCH = 256

# Where and how a fit runs.

#: Multiply-adds a batch from which more than one thread pays.
WORTH_THREADS = 3 * 2**19
#: Of a full-batch optimizer a pass counts for so much less, and the second moments of a sample that
#: it may take beside for less again. Between small products it does much else: threads save a
#: quarter of its time at most, and double it where the cores are busy.
CHEAPER_PASS, CHEAPER_MOMENTS = 4, 16
#: What the loss of one raw prediction costs, in multiply-adds.
LOSS_WORK = 32
#: Multiply-adds from which device="auto" moves to a GPU: of a pass over all rows, which launches
#: some forty kernels and waits for a few numbers, and of a step of SGD or Adam, which launches some
#: fifteen.
WORTH_A_PASS, WORTH_A_STEP = 2**24, 2**22

# Weights of rows.

#: Exponent below that of every number.
LEAST_EXPONENT = -2000
#: Weights of later calls of `partial_fit`, relative to the first one's, as powers of two: more
#: would leave float32's range, and less count as nothing.
MOST_LATER, LEAST_LATER = 100, 1000

# The start of a fit.

#: One row in so many is enough to begin with, if these are so many, also for each weight, ...
#: (a fit of 100,000 x 10 takes 1.3 times as long without)
HEAD_SHARE, HEAD_ROWS, HEAD_ROWS_A_WEIGHT = 16, 5000, 10
#: ... and take no more than so many bytes; ...
HEAD_BYTES = 2**26
#: ... and so near to their optimum, or after so many iterations, is near enough.
HEAD_TOL, HEAD_ITERATIONS = 1e-2, 100
#: Share of them that must be distinct: a row of much weight is drawn again and again.
LEAST_DISTINCT = 0.5
#: Rows of each class that are among them, or all if there are fewer.
LEAST_ROWS_OF_A_CLASS = 50

# Precision and coordinates.

#: Tables of at most so many numbers are trained in double precision on a CPU, and the models that
#: come of them evaluated once more.
DOUBLE_NUMBERS = 2**22
#: Multiply-adds of a pass that are made in double precision there. Small fits take 0.8 to 1.1 times
#: as long without; it is for the digits.
DOUBLE_WORK = 2**24
#: Numbers up to this one, and from its inverse on, can be squared and added up.
MOST_SQUARED = 1e100
#: The rows of a table of at most so many numbers are factored if its columns are dependent.
MOST_FACTORED = 2**24
#: Columns whose sizes are within this factor are factored together: within it a factorisation
#: keeps the digits of the small ones.
LEVEL = 1e5
#: Rows of the sample that roughly tells means and deviations: the first of these numbers, or fewer,
#: but not fewer than the second, if they have more numbers than the third. From all rows, ridge
#: regression on 50,000 x 100 takes 1.5 times as long, and softmax regression 1.1 times.
SCALING_ROWS, LEAST_SCALING_ROWS, SCALING_NUMBERS = 1024, 128, 2**20

# Working sets of columns.

#: Columns from which on rounds take less time than all columns at once (measured with 100 to
#: 200,000 rows: with 200 columns up to twice as much, with 500 about as much, with 2000 a fifth).
LEAST_COLUMNS = 400
#: A round adds no more columns than this, or than there are.
FIRST_COLUMNS = 100
#: Share of the columns, and bytes of a copy of a large matrix, from which on all are taken.
MOST_WORKING, MOST_COPIED_BYTES = 0.5, 2**28
#: Rounds after which all columns are taken.
MOST_ROUNDS = 20
#: Share of the distance at which training stops that columns outside may add to it.
LEFT_OUT = 0.5

# Learning rates that are chosen here.

#: A rate has fallen far enough below this share of its first value.
AUTOMATIC_FLOOR = 1e-3
#: Steps of ``partial_fit``, of which the mean is returned, are this many times as long as those of
#: a fit, and fall with this power of the number of calls.
PASS_SHARE, PASS_DECAY = 3.0, 0.25
#: A rate is lowered after at least this many steps without improvement.
LEAST_STEPS = 50
#: A weight grows by so much, in deviations of its column, when these turn out to be larger.
MOST_GROWTH = 2.0

# The models that are returned.

#: Numbers of a table that are evaluated at once.
EVALUATED_NUMBERS = 2**22
#: Rows of the sample that tells the sizes of the columns.
SAMPLE_ROWS = 1024
#: Means, in standard deviations, from which the models of larger tables are evaluated too.
LARGE_MEAN = 1e3
#: What the rounding of the coefficients may lose, in distances at which training stops, and in
#: roundings of the objective.
MOST_LOST, ROUNDING_OF_RETURNED = 8.0, 4.0
#: Coefficients that are rounded to their dtype are not held to a smaller ``tol``.
LEAST_TOL = 1e-6
#: Losses below this one count as zero.
LEAST_LOSS = 1e-200
#: Standard deviations of the noise that stands for rounding errors, in roundings of the dtype; and
#: the iterations, from the optimum without it, after which the model is near enough to be tried.
NOISE, NOISE_ITERATIONS = (0.3, 0.1, 1.0), 10
#: Numbers of the largest table that is trained again with noise.
MOST_NOISY = 2**20
#: To leave out columns that rounding could have made may cost this many times what as many columns
#: of noise are expected to gain.
MOST_BY_CHANCE = 5.0
#: Products of rows that leave the range of numbers which are made anew at once.
PRODUCTS_AT_ONCE = 2**20
#: Powers of two that are left free above the largest logit, so that differences are in range.
SPARE_POWERS = 3

# Candidates that train together.

#: Memory that the state of one stack may take, in bytes. More models are trained in turns.
STACK_BYTES = 2**30
#: Arrays of the coefficients' shape that an optimizer and the training loop keep of a model, at
#: most. The quasi-Newton method keeps three more for each pair of L-BFGS.
OPTIMIZER_COPIES = 12
#: Multiply-adds of one product with a batch up to which steps are mostly overhead, and bytes of the
#: samples of all folds that may be copied to spare it.
SMALL_STEP, SMALL_SAMPLES = 2**19, 2**26
#: Columns up to which second moments of all serve fits with L1 (50 penalties of lasso on
#: 20,000 x 200: 34 times faster than by passes).
MOST_L1_COLUMNS = 2500
#: Multiply-adds of a pass with all candidates from which they are trained along the path of their
#: optima, if they have L1 or if there are so many of them.
WORTH_A_PATH, MANY_CANDIDATES = 2**24, 30
#: Multiply-adds of a pass with one candidate from which it is long. The optima of one candidate in
#: so many are sought first, where passes are long and elsewhere.
LONG_PASS, EVERY_LONG, EVERY_SHORT = 2**28, 2, 5
#: A fit that may make fewer iterations than this could run out of them, and its start would matter.
FEW_PASSES = 100
