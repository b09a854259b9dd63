"""Train, and measure the best network on validation images: python train_and_evaluate.py kvasir-seg runs/1 352 100"""

import sys

import polypstream as ps

data, run, size, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
best = ps.train([data], run=run, size=size, epochs=epochs)
for dataset in ps.evaluate(best, [data], split="val").datasets:
    print(dataset.dataset, dataset.dice)
