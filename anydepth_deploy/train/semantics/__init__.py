"""What a detector learns from a frozen vision transformer while it is trained (RT-DETRv4).

The tokens behind AIFI, the encoder's attention on the coarsest map, are to point where the tokens
of a large network that saw many more pictures point (:mod:`.injection`: Deep Semantic Injector);
how much that counts follows the share of the gradients that reach AIFI (:mod:`.modulation`:
Gradient-guided Adaptive Modulation). :mod:`.distillation` is both for a training loop,
:mod:`.teachers` what a teacher must be, :mod:`.vision_transformers` one of transformers.

All of it is gone after training: neither teacher nor projector is part of the network.
"""
