"""The proxy oracle in a controlled world: a budget of labels spent directly, and through a proxy for the rest."""

from rmjax.jobs.study_proxy import StudyProxy
from rmjax.methods.proxy_oracle import ProxyOracle
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Implicit
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

SFT = Train(
    optimizer=Optimizer(learning_rate=3e-3, b2=0.98, warmup=37, schedule="cosine", end=0.05, clip=1.0),
    batch=16,
    steps=500,
    length=64,
    quiet=True,
)
DPO = Train(
    optimizer=Optimizer(learning_rate=1e-4, b2=0.98, warmup=10, schedule="constant", clip=1.0),
    batch=8,
    steps=60,
    length=64,
    quiet=True,
)
LOSS = Pairwise(score=Implicit(beta=0.1), sft=0.5)  # without the term on the better answer DPO unlearns to write
GRID = ((3e-5, 30), (3e-5, 60), (1e-4, 60), (1e-4, 120), (3e-4, 60), (3e-4, 120))


def get_config() -> StudyProxy:
    """Every way and every budget searches the same grid; the evaluation model has one setting."""
    return StudyProxy(
        sft=SFT,
        grid=GRID,
        method=ProxyOracle(
            sampling=Sampling(temperature=1.0, max_new_tokens=8),
            evaluator=LOSS,
            evaluator_train=DPO,
            objective=LOSS,
            train=DPO,
        ),
    )
