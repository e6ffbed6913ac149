"""Systems made from systems. Every function returns a new system and computes no response."""

from dsf.runtime.first_use import public_names
from dsf.systems.algebra.connections import change_of_basis as change_of_basis
from dsf.systems.algebra.connections import direct_sum as direct_sum
from dsf.systems.algebra.connections import parallel as parallel
from dsf.systems.algebra.connections import series as series
from dsf.systems.algebra.connections import with_conjugates as with_conjugates
from dsf.systems.algebra.conversion import adjoint as adjoint
from dsf.systems.algebra.conversion import converted as converted
from dsf.systems.algebra.conversion import reverse as reverse
from dsf.systems.algebra.conversion import select as select

__all__ = public_names(__name__)
